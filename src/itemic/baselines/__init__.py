"""itemic.baselines."""
