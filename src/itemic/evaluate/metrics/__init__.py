"""itemic.evaluate.metrics."""
