"""itemic.embed."""
