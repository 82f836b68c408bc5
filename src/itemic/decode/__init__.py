"""itemic.decode."""
