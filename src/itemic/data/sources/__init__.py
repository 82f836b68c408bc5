"""itemic.data.sources."""
