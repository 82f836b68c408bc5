"""itemic.sid."""
