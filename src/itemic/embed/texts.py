"""The text of each item, made of the catalogue's columns; knows nothing of encoders."""

import difflib
from collections.abc import Sequence

import polars as pl

from itemic.core.errors import ConfigError, DataError

__all__ = ["item_texts"]


def item_texts(items: pl.DataFrame, fields: Sequence[str]) -> list[str]:
    """Returns each item's fields, in the order given, joined by a space; an empty field leaves nothing behind.

    Numbers are written as they are, lists joined by commas. This is MiniOneRec's title + " " + description.

    Raises:
        ConfigError: if a column does not exist.
        DataError: if an item has no text at all: its vector would mean nothing, so its SID would mean nothing.
    """
    for name in fields:
        if name not in items.columns:
            nearest = difflib.get_close_matches(name, items.columns, n=1, cutoff=0.0)
            raise ConfigError(f"fields: items have no column {name!r}; did you mean {nearest[0]}?")
    texts = items.select(pl.concat_str([_as_text(items, name) for name in fields], separator=" ", ignore_nulls=True))
    column = texts.to_series()
    empty = items.filter(column == "")["item_id"]
    if len(empty):
        raise DataError(
            f"{len(empty)} of {items.height} items have no text in {', '.join(fields)}: item ids "
            f"{', '.join(empty.head(5))}{' ...' if len(empty) > 5 else ''}; name more fields or leave these items out"
        )
    return column.to_list()


def _as_text(items: pl.DataFrame, name: str) -> pl.Expr:
    column = pl.col(name)
    if isinstance(items.schema[name], pl.List | pl.Array):
        column = column.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True)
    text = column.cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)
