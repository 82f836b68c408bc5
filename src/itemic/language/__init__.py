"""itemic.language."""
