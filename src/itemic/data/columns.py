"""A source's columns to the columns of a RawLog: which name means what, how times are written, which rows are bad.

Knows no file format; every source that has a log and a catalogue ends here, so that the same row is bad everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from itemic.core.errors import ConfigError, DataError
from itemic.data.raw import RAW_INTERACTION_SCHEMA
from itemic.data.reading import joined_text
from itemic.data.rejects import SourceRows

__all__ = [
    "InteractionColumns",
    "ItemColumns",
    "check_time_format",
    "make_interactions",
    "make_items",
    "parse_time",
    "require_columns",
]

_US_PER_UNIT = {"s": 10**6, "ms": 10**3, "us": 1, "ns": 10**-3, "d": 86_400 * 10**6}
_LATEST_S = 4_102_444_800  # 2100-01-01: later times are in another unit than was said
_RESERVED = ("item_index", "item_id", "title", "description")


@dataclass(frozen=True, kw_only=True)
class InteractionColumns:
    """Which column of a log means what; "" for one that the log does not have."""

    user_id: str = "user_id"
    """Who."""
    item_id: str = "item_id"
    """What."""
    timestamp: str = "timestamp"
    """When; without it the order of the rows is the order of time."""
    behaviour: str = ""
    """What the user did, "click" or "purchase" say."""
    rating: str = ""
    """How the user liked it, a number."""

    def __post_init__(self) -> None:
        if not (self.user_id and self.item_id):
            raise ConfigError("a log needs a user_id and an item_id column")


@dataclass(frozen=True, kw_only=True)
class ItemColumns:
    """Which column of a catalogue means what; columns not named here stay under their own names."""

    item_id: str = "item_id"
    """Id that the log uses."""
    title: str = "title"
    """Title."""
    description: str = "description"
    """Longer text; "" for a catalogue without one. A written list is joined by blanks."""

    def __post_init__(self) -> None:
        if not (self.item_id and self.title):
            raise ConfigError("a catalogue needs an item_id and a title column")


def require_columns(source: SourceRows, names: Sequence[str]) -> None:
    """Checks that a file has the columns called ``names``; "" is skipped.

    Raises:
        DataError: naming the missing column and those that are there.
    """
    there = [name for name in source.rows.columns if name != "source_row"]
    for name in names:
        if name and name not in there:
            raise DataError(
                f'{source.file}: no column {name!r}; it has {", ".join(there)}: name the right one, or write "" '
                "for a column that may be absent and is"
            )


def check_time_format(time_format: str) -> None:
    """Checks that a time format is one that ``parse_time`` knows.

    Raises:
        ConfigError: if it is not.
    """
    if time_format not in (*_US_PER_UNIT, "iso") and "%" not in time_format:
        units = ", ".join(_US_PER_UNIT)
        raise ConfigError(
            f"time format {time_format!r}: expected {units} (since 1970), iso, or a pattern such as %Y-%m-%d"
        )


def parse_time(table: pl.DataFrame, column: str, time_format: str) -> pl.Expr:
    """Returns the expression for microseconds since 1970, null where the cell cannot be read.

    Args:
        table: The rows.
        column: Name of a column; one of dates or datetimes (in a Parquet file) needs no format.
        time_format: A unit (``s``, ``ms``, ``us``, ``ns``, ``d``) of numbers since 1970; ``iso`` for ISO 8601 dates
            and times, in UTC where no offset is written; otherwise a strptime pattern, read as UTC.
    """
    cell = pl.col(column)
    if table.schema[column] in (pl.Date, pl.Datetime):
        return cell.cast(pl.Datetime("us")).dt.epoch("us")
    if time_format in _US_PER_UNIT:
        return (cell.cast(pl.Float64, strict=False) * _US_PER_UNIT[time_format]).floor().cast(pl.Int64, strict=False)
    text = cell.cast(pl.String).str.strip_chars()
    pattern = None if time_format == "iso" else time_format
    if pattern and not any(code in pattern for code in ("%H", "%I", "%T", "%R", "%c", "%s", "%+")):
        return text.str.to_date(pattern, strict=False).cast(pl.Datetime("us")).dt.epoch("us")
    zone = None if pattern else "UTC"
    return text.str.to_datetime(pattern, time_unit="us", time_zone=zone, strict=False).dt.epoch("us")


def make_interactions(source: SourceRows, columns: InteractionColumns, time_format: str = "s") -> SourceRows:
    """Returns a log as RAW_INTERACTION_SCHEMA; rows without ids or with a time or rating that is none are set aside.

    Raises:
        DataError: if a column is missing.
    """
    optional = (columns.timestamp, columns.behaviour, columns.rating)
    require_columns(source, (columns.user_id, columns.item_id, *optional))
    parsed = {
        "user_id": _identifier(columns.user_id),
        "item_id": _identifier(columns.item_id),
        "time_us": parse_time(source.rows, columns.timestamp, time_format)
        if columns.timestamp
        else pl.lit(None, pl.Int64),
        "behaviour": pl.col(columns.behaviour).cast(pl.String) if columns.behaviour else pl.lit(None, pl.String),
        "rating": pl.col(columns.rating).cast(pl.Float64, strict=False) if columns.rating else pl.lit(None, pl.Float64),
    }
    rules = [(parsed[key].is_null(), f"missing {key}") for key in ("user_id", "item_id")]
    if columns.timestamp:
        rules.append((pl.col(columns.timestamp).is_null(), "missing timestamp"))
        rules.append((parsed["time_us"].is_null(), "unparsable timestamp"))
        rules.append((~parsed["time_us"].is_between(0, _LATEST_S * 10**6), "timestamp outside 1970 to 2100"))
    if columns.rating:
        rules.append((parsed["rating"].is_null(), "unparsable rating"))
    kept = source.set_aside(rules)
    rows = kept.rows.select(**parsed, source_row="source_row").select(*RAW_INTERACTION_SCHEMA)
    return SourceRows(file=source.file, rows=rows, rejects=kept.rejects)


def make_items(source: SourceRows, columns: ItemColumns) -> SourceRows:
    """Returns a catalogue with item_id, title, description, its further columns as text, and source_row.

    A row without id or title is set aside. Of several rows with one id the first counts: equal ones are dropped,
    others set aside. A further column whose name is one of ours is called ``source_<name>``.

    Raises:
        DataError: if a column is missing.
    """
    require_columns(source, (columns.item_id, columns.title, columns.description))
    mapped = (columns.item_id, columns.title, columns.description, "source_row")
    further = [name for name in source.rows.columns if name not in mapped]
    item_id, title = _identifier(columns.item_id), _text(columns.title)
    kept = source.set_aside(
        [
            (item_id.is_null(), "missing item_id"),
            (title.is_null() | (title == ""), "empty title"),
        ]
    )
    rows = kept.rows.select(
        item_id.alias("item_id"),
        title.alias("title"),
        (_text(columns.description) if columns.description else pl.lit("")).fill_null("").alias("description"),
        *(_text(name).alias(f"source_{name}" if name in _RESERVED else name) for name in further),
        "source_row",
    )
    rows = rows.with_columns(joined_text(rows["title"], " "), joined_text(rows["description"], " "))
    rows = rows.with_columns(
        joined_text(rows[name], ", ") for name in rows.columns if name not in (*_RESERVED, "source_row")
    )
    unique = rows.unique(subset=pl.exclude("source_row"), keep="first", maintain_order=True)
    distinct = SourceRows(file=source.file, rows=unique, rejects=kept.rejects)
    return distinct.set_aside([(~pl.col("item_id").is_first_distinct(), "item_id once more with other content")])


def _identifier(column: str) -> pl.Expr:
    text = pl.col(column).cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)


def _text(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).str.strip_chars()
