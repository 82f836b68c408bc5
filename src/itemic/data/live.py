"""Columns that change after a run is made, stock or price say, laid over its catalogue; knows no condition."""

import hashlib
import io
import logging
from pathlib import Path

import polars as pl

from itemic.core.errors import DataError
from itemic.data.reading import read_table

__all__ = ["lay_over"]

log = logging.getLogger("itemic")

_KEPT = ("item_index", "source_row")
"""Columns that are never replaced: the run's own numbering."""


def lay_over(items: pl.DataFrame, live: pl.DataFrame | Path | str) -> tuple[pl.DataFrame, str]:
    """Returns the catalogue with the live table's columns, and a hash of those.

    A column of the live table takes the place of the catalogue's whole column of that name: an item without a row has
    no value in it, not an old one. Rows of ids that no item has are left out with a warning.

    Args:
        items: A Dataset's items; their order is kept.
        live: A table with ``item_id`` and any columns, or its file: Parquet, CSV, TSV or JSON lines, where all but the
            first hold text.

    Raises:
        DataError: if the file cannot be read, has a row that is malformed or no ``item_id`` column, names an item twice
            or not at all, or none of its ids is an item's.
    """
    name, table = _read(live)
    table = _with_ids(name, table)
    is_known = table["item_id"].is_in(items["item_id"].implode())
    num_unknown = table.height - int(is_known.sum())
    if num_unknown == table.height:
        raise DataError(f"{name}: none of its {table.height:,} rows has the item_id of an item of this run")
    if num_unknown:
        first = table["item_id"].filter(~is_known)[0]
        log.warning(
            "%s: %d rows have an item_id that no item has, %r first; they are left out", name, num_unknown, first
        )
    log.info("%s: %d of %d items have a row in it", name, table.height - num_unknown, items.height)
    replaced = [column for column in table.columns if column != "item_id"]
    joined = items.drop(replaced, strict=False).join(table, on="item_id", how="left", maintain_order="left")
    order = [*items.columns, *(column for column in replaced if column not in items.columns)]
    return joined.select(order), _content_hash(joined.select("item_id", *sorted(replaced)))


def _read(live: pl.DataFrame | Path | str) -> tuple[str, pl.DataFrame]:
    if isinstance(live, pl.DataFrame):
        return "table of live columns", live.drop(_KEPT, strict=False)
    source = read_table(Path(live), mapped=["item_id"])
    for row, reason in source.rejects.select("row", "reason").head(1).iter_rows():
        raise DataError(f"{live}: row {row}: {reason}")
    return str(live), source.rows.drop(_KEPT, strict=False)


def _with_ids(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """Returns the table with its ids as text without blanks around it, each there once."""
    if "item_id" not in table.columns:
        raise DataError(f"{name}: needs a column item_id, found {', '.join(table.columns)}")
    dtype = table.schema["item_id"]
    if not (dtype.is_integer() or isinstance(dtype, (pl.String, pl.Categorical, pl.Enum))):
        raise DataError(f"{name}: item_id is {dtype}; expected text or whole numbers")
    ids = table["item_id"].cast(pl.String).str.strip_chars()
    num_missing = int((ids.is_null() | (ids == "")).sum())
    if num_missing:
        raise DataError(f"{name}: {num_missing:,} rows have no item_id")
    is_double = ids.is_duplicated()
    if is_double.any():
        raise DataError(f"{name}: expected each item once, found {ids.filter(is_double)[0]!r} in several rows")
    return table.with_columns(ids.alias("item_id"))


def _content_hash(table: pl.DataFrame) -> str:
    """Returns a hash of a table's column names, types and values."""
    # Parquet leaves out what memory happens to hold where a value is null.
    data = io.BytesIO()
    table.rechunk().write_parquet(data, compression="uncompressed")
    return hashlib.sha256(data.getbuffer()).hexdigest()
