"""itemic.core."""
