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
    "identifier",
    "make_interactions",
    "make_items",
    "parse_time",
    "require_columns",
]

_US_PER_UNIT = {"s": 10**6, "ms": 10**3, "us": 1, "ns": 10**-3, "d": 86_400 * 10**6}
_LATEST_S = 4_102_444_800  # 2100-01-01: later times are in another unit than was said
_ISO_ZONE = r" ?(?:Z|UTC|([+-]\d{2})(?::?(\d{2}))?)"
_ISO_PATTERN = rf"^(\d{{4}}-\d{{2}}-\d{{2}})(?:[T ](\d{{2}}:\d{{2}})(:\d{{2}}(?:\.\d+)?)?(?:{_ISO_ZONE})?)?$"
_CODES_OF_THE_HOUR = ("%H", "%I", "%T", "%R", "%c", "%s", "%+")
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

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are there, by the names that the file has for them."""
        return tuple(name for name in vars(self).values() if name)


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

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are there, by the names that the file has for them."""
        return tuple(name for name in vars(self).values() if name)


def require_columns(source: SourceRows, names: Sequence[str]) -> None:
    """Checks that a file has the columns called ``names``; "" is skipped.

    Raises:
        DataError: naming the missing column and those that are there.
    """
    there = [name for name in source.rows.columns if name != "source_row"]
    for name in names:
        if name and name not in there:
            raise DataError(
                f'{source.file}: no column {name!r}; it has {", ".join(there)}. Name another, or "" where it has none'
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
    if table.schema[column] in (pl.Date, pl.Datetime):
        return pl.col(column).cast(pl.Datetime("us")).dt.epoch("us")
    if time_format in _US_PER_UNIT:
        return (_number(column) * _US_PER_UNIT[time_format]).floor().cast(pl.Int64, strict=False)
    text = _text(column)
    if time_format == "iso":
        return (
            _completed_iso(text).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", strict=False).dt.epoch("us")
        )
    if not any(code in time_format for code in _CODES_OF_THE_HOUR):
        return text.str.to_date(time_format, strict=False).cast(pl.Datetime("us")).dt.epoch("us")
    return text.str.to_datetime(time_format, time_unit="us", strict=False).dt.epoch("us")


def make_interactions(source: SourceRows, columns: InteractionColumns, time_format: str = "s") -> SourceRows:
    """Returns a log as RAW_INTERACTION_SCHEMA; rows without ids or with a time or rating that is none are set aside.

    Raises:
        DataError: if a column is missing.
    """
    optional = (columns.timestamp, columns.behaviour, columns.rating)
    require_columns(source, (columns.user_id, columns.item_id, *optional))
    parsed = {
        "user_id": identifier(columns.user_id),
        "item_id": identifier(columns.item_id),
        "time_us": parse_time(source.rows, columns.timestamp, time_format)
        if columns.timestamp
        else pl.lit(None, pl.Int64),
        "behaviour": pl.col(columns.behaviour).cast(pl.String) if columns.behaviour else pl.lit(None, pl.String),
        "rating": _number(columns.rating) if columns.rating else pl.lit(None, pl.Float64),
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
    item_id, title = identifier(columns.item_id), _text(columns.title)
    kept = source.set_aside([(item_id.is_null(), "missing item_id"), (title.fill_null("") == "", "empty title")])
    texts = [_joined(kept.rows[name], ", ").alias(f"source_{name}" if name in _RESERVED else name) for name in further]
    description = pl.lit(_joined(kept.rows[columns.description], " ") if columns.description else "")
    rows = kept.rows.select(
        item_id.alias("item_id"),
        title.alias("title"),
        description.fill_null("").alias("description"),
        *texts,
        "source_row",
    )
    unique = rows.unique(subset=pl.exclude("source_row"), keep="first", maintain_order=True)
    gone = source.rows.select(item_id.alias("item_id")).filter(~pl.col("item_id").is_in(unique["item_id"].implode()))
    ids = frozenset(gone["item_id"].drop_nulls())
    distinct = SourceRows(file=source.file, rows=unique, rejects=kept.rejects, ids_set_aside=ids)
    return distinct.set_aside([(~pl.col("item_id").is_first_distinct(), "item_id once more with other content")])


def identifier(column: str) -> pl.Expr:
    """Returns the expression for ids in a column: text without surrounding blanks, null where nothing is left."""
    text = _text(column)
    return pl.when(text != "").then(text)


def _text(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).str.strip_chars()


def _number(column: str) -> pl.Expr:
    return _text(column).cast(pl.Float64, strict=False).fill_nan(None)


def _completed_iso(text: pl.Expr) -> pl.Expr:
    """Returns ISO 8601 dates and times with what they leave out: midnight, no seconds, UTC."""
    parts = text.str.extract_groups(_ISO_PATTERN)
    day, minute, second, zone_hour, zone_minute = (parts.struct[index] for index in range(5))
    zone = pl.concat_str(zone_hour.fill_null("+00"), pl.lit(":"), zone_minute.fill_null("00"))
    return pl.concat_str(day, pl.lit("T"), minute.fill_null("00:00"), second.fill_null(":00"), zone)


def _joined(values: pl.Series, separator: str) -> pl.Series:
    """Returns a column of any type as text; lists, in Parquet's type or written out, are joined."""
    if isinstance(values.dtype, pl.List):
        return values.cast(pl.List(pl.String)).list.join(separator, ignore_nulls=True)
    if isinstance(values.dtype, pl.Struct):
        return values.struct.json_encode()
    return joined_text(values.cast(pl.String).str.strip_chars(), separator)
