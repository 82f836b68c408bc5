"""itemic.evaluate.report."""
