"""itemic.data."""
