"""itemic.evaluate."""
