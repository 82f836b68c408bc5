"""Tables of items without a log: a catalogue of its own, or further items for a dataset that has some.

Knows nothing of vectors or SIDs.
"""

from pathlib import Path

import polars as pl

from itemic.core.errors import DataError
from itemic.data.columns import ItemColumns, make_items
from itemic.data.filters import clean_titles
from itemic.data.reading import read_table
from itemic.data.rejects import SourceRows
from itemic.data.sources.table import TableConfig

__all__ = ["read_additions", "read_items"]


def read_items(path: Path, *, clean: bool = True) -> pl.DataFrame:
    """Returns the items of a file as rows of ``items.parquet``: item_index, item_id, title, description, further ones.

    Args:
        path: As for ``read_additions``.
        clean: Whether titles are cleaned of HTML entities and line breaks.

    Raises:
        DataError: naming file and row of an item that occurs twice or has no id or title; if a column is missing, or
            there is no row.
    """
    rows = _read_rows(path, None, clean=clean).drop("source_row")
    return rows.select(pl.int_range(pl.len(), dtype=pl.Int64).alias("item_index"), pl.all())


def read_additions(
    path: Path, items: pl.DataFrame, *, source: TableConfig | None = None, clean: bool = True
) -> pl.DataFrame:
    """Returns the items of a file as rows to be put after ``items``, with the same columns and types.

    The file names its columns as the dataset's source does, or as ``items.parquet`` does. A column of the dataset
    that it lacks is null (a description is empty); a column that the dataset lacks is refused, and so is every row
    that cannot be used: nothing is left out silently.

    Args:
        path: ``.csv``, ``.tsv``, ``.jsonl`` (each also ``.gz``) or ``.parquet``.
        items: The dataset's items.
        source: The dataset's source, where it is a table: how its catalogue was written.
        clean: Whether titles are cleaned of HTML entities and line breaks, as the dataset's were.

    Raises:
        DataError: naming file and row of an item that is known, occurs twice or has no id or title; if a column is
            missing or unknown, or there is no row.
    """
    rows = _read_rows(path, source, clean=clean)
    _check_new(path, rows, items)
    _check_columns(path, rows, items)
    rows = rows.with_columns(pl.int_range(items.height, items.height + pl.len(), dtype=pl.Int64).alias("item_index"))
    try:
        missing = [pl.lit(None).alias(name) for name in items.columns if name not in rows.columns]
        return rows.with_columns(missing).select(items.columns).cast(items.schema)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: a column is not of the type that the dataset's items have: {error}") from None


def _read_rows(path: Path, source: TableConfig | None, *, clean: bool) -> pl.DataFrame:
    """Returns item_id, title, description, the further columns as text, and source_row."""
    layout = {} if source is None else {"quoted": source.quoted, "encoding": source.encoding}
    table = read_table(path, **layout)  # type: ignore[arg-type]
    table = SourceRows(file=table.file, rows=table.rows.drop("item_index", strict=False), rejects=table.rejects)
    made = make_items(table, _columns(table.rows.columns, source))
    if made.rejects.height:
        row, reason = made.rejects.sort("row").select("row", "reason").row(0)
        raise DataError(f"{path}: row {row}: {reason} (rows that cannot be used: {made.rejects.height})")
    if made.rows.is_empty():
        raise DataError(f"{path}: has no items")
    return made.rows.with_columns(clean_titles(made.rows["title"])) if clean else made.rows


def _columns(names: list[str], source: TableConfig | None) -> ItemColumns:
    """Returns which column means what: as in the source if the file has its id and title, else by our own names."""
    if source is not None and {source.item_columns.item_id, source.item_columns.title} <= set(names):
        return source.item_columns
    return ItemColumns(description="description" if "description" in names else "")


def _check_new(path: Path, rows: pl.DataFrame, items: pl.DataFrame) -> None:
    known = rows.filter(pl.col("item_id").is_in(items["item_id"].implode()))
    if known.height:
        item_id, row = known["item_id"][0], known["source_row"][0]
        raise DataError(
            f"{path}: row {row}: item {item_id!r} is in the catalogue already (rows like that: {known.height})"
        )


def _check_columns(path: Path, rows: pl.DataFrame, items: pl.DataFrame) -> None:
    unknown = [name for name in rows.columns if name not in (*items.columns, "source_row")]
    if unknown:
        raise DataError(
            f"{path}: no column {unknown[0]!r} in the dataset, whose items have {', '.join(items.columns)}; "
            "leave it out or rename it"
        )
