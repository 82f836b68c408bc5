"""itemic.model."""
