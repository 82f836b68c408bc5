"""itemic.cli."""
