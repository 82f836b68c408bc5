"""itemic.train."""
