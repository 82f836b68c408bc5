"""Which columns of the items say what kind of thing an item is, as labels; knows nothing of codes."""

from collections.abc import Sequence

import polars as pl

from itemic.core.errors import ConfigError

__all__ = ["LABEL_COLUMNS", "read_labels"]

LABEL_COLUMNS = ("brand", "store", "main_category", "category", "categories", "genres")
"""Columns that are labels wherever a source has them."""

_LISTS = ("categories", "genres")


def read_labels(items: pl.DataFrame, columns: Sequence[str] | None) -> dict[str, list[list[str]]]:
    """Returns the labels of every item, by column.

    A text is one label, but one with "|", or the columns ``categories`` and ``genres`` with ", ", holds several (a
    brand may well be called "Pumps, Inc."). Labels that every item carries, the root of a category tree say, are
    left out, since they tell nothing apart.

    Args:
        items: The dataset's items.
        columns: Their names; None takes those of LABEL_COLUMNS that are there and tell items apart.

    Raises:
        ConfigError: if a column that was named is not there.
    """
    missing = [name for name in columns or () if name not in items.columns]
    if missing:
        raise ConfigError(f"label_columns: no column {missing[0]!r}; items.parquet has {', '.join(items.columns)}")
    names = [name for name in LABEL_COLUMNS if name in items.columns] if columns is None else columns
    found = {name: _without_common(_split(items[name], name).to_list()) for name in names}
    return {name: labels for name, labels in found.items() if columns is not None or any(labels)}


def _split(column: pl.Series, name: str) -> pl.Series:
    """Returns a list of labels for every row; none for null and empty text."""
    if column.dtype == pl.List:
        lists = column.cast(pl.List(pl.String))
    else:
        text = column.cast(pl.String)
        if name in _LISTS:
            text = text.str.replace_all(", ", "|", literal=True)
        lists = text.str.split("|")
    kept = lists.fill_null([]).list.eval(pl.element().str.strip_chars())
    return kept.list.eval(pl.element().filter(pl.element().is_not_null() & (pl.element() != "")))


def _without_common(labels: list[list[str]]) -> list[list[str]]:
    common = set(labels[0]).intersection(*labels) if labels else set()
    return [[name for name in names if name not in common] for names in labels]
