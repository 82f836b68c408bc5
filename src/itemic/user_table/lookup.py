"""Item rows by id for millions of ids at a time; they live beside the look-up by title."""

from itemic.data.lookup import ItemRows

__all__ = ["ItemRows"]
