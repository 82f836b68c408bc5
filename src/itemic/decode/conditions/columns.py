"""Comparisons of a catalogue's columns as polars expressions, each checked against the column's type and content.

A catalogue's further columns are text where ``itemic prepare`` wrote them, so the value that a text column is compared
with says how it is read: ``stock > 0`` as numbers, ``released >= 2024-01-01`` as dates. A cell that cannot be read so
counts as missing, as blank text does, and a note says so; where most cells cannot, the condition is an error. Knows no
syntax.
"""

import difflib
import re
from datetime import UTC, date, datetime, timedelta
from typing import Literal, NamedTuple

import polars as pl

from itemic.core.errors import ConfigError, DataError

__all__ = [
    "Comparison",
    "Notes",
    "Value",
    "check_columns",
    "compare",
    "contains",
    "is_among",
    "is_missing",
    "is_recent",
    "is_text",
]

Comparison = Literal["=", "!=", "<", "<=", ">", ">="]
Notes = dict[str, str]
"""What the user should know of a column's cells, under the column and how it was read."""

_FIRST_INEXACT = 2**53
"""Whole numbers below are exact in 64-bit floats."""
_NO_INT64 = 2**63
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)
_MOMENT_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")
_FIRST_SECOND, _LAST_SECOND = 10**8, 4_102_444_800
"""1973 and 2100: whole numbers outside are years or milliseconds, not seconds since 1970."""


class Value(NamedTuple):
    """What a column is compared with."""

    text: str
    """As it is written, without quotes."""
    is_quoted: bool
    """Whether it stood in quotes: then it is text, though it may look like a number."""


def check_columns(items: pl.DataFrame, names: list[str]) -> None:
    """Checks that the catalogue has columns.

    Raises:
        ConfigError: naming the first that it has not, a name like it if there is one, and all there are.
    """
    for name in names:
        if name not in items.columns:
            by_folded = {column.casefold(): column for column in items.columns}
            near = difflib.get_close_matches(name.casefold(), list(by_folded), n=1)
            hint = f"did you mean {by_folded[near[0]]!r}? It" if near else "it"
            raise ConfigError(f"the catalogue has no column {name!r}; {hint} has {', '.join(items.columns)}")


def compare(items: pl.DataFrame, name: str, comparison: Comparison, value: Value, notes: Notes) -> pl.Expr:
    """Returns whether a column's value compares so with ``value``; null where it has none, or blank text.

    Text is equal letter by letter; but beside a number or date without quotes, cells of a column that mostly can be
    read so are equal as numbers or moments: ``= 2`` holds for ``2.0``. Beside a time a day stands for the whole of it,
    in UTC: ``<= 2024-05-01`` holds until midnight.

    Args:
        items: The catalogue.
        name: Column.
        comparison: Sign between column and value.
        value: What it is compared with.
        notes: Gets a note of cells that cannot be read as what they are compared with, and so count as missing.

    Raises:
        ConfigError: if there is no such column, or its type does not go with the value or comparison.
        DataError: if most values of the column cannot be read as what they are compared with.
    """
    check_columns(items, [name])
    dtype = items.schema[name]
    if comparison in ("=", "!=") and isinstance(dtype, _TEXT_TYPES):
        return _compare_text(items, name, comparison, value)
    if comparison in ("=", "!=") and dtype == pl.Boolean:
        return _ordered(pl.col(name).cast(pl.String), comparison, _truth(name, value.text))
    return _compare_in_order(items, name, comparison, value.text, notes)


def _compare_in_order(items: pl.DataFrame, name: str, comparison: Comparison, value: str, notes: Notes) -> pl.Expr:
    """Returns the comparison of numbers or moments."""
    dtype = items.schema[name]
    if dtype.is_numeric() or (isinstance(dtype, _TEXT_TYPES) and _NUMBER.fullmatch(value)):
        if dtype.is_integer() and _DAY.match(value):
            return _compare_moments(items, name, _as_moment(items, name, notes), comparison, value)
        return _ordered(_as_number(items, name, notes), comparison, _number(items, name, value))
    if isinstance(dtype, (pl.Date, pl.Datetime)) or (isinstance(dtype, _TEXT_TYPES) and _DAY.match(value)):
        return _compare_moments(items, name, _as_moment(items, name, notes), comparison, value)
    if isinstance(dtype, _TEXT_TYPES):
        raise ConfigError(f"column {name!r} is text: {comparison} needs a number or a date beside it, found {value!r}")
    remedy = f"; write {name} contains {value}" if isinstance(dtype, (pl.List, pl.Array)) else ""
    raise ConfigError(f"column {name!r} is {_described(dtype)}: it has no {comparison}{remedy}")


def is_among(items: pl.DataFrame, name: str, values: list[Value], notes: Notes) -> pl.Expr:
    """Returns whether a column's value equals one of ``values``; null where it has none, or blank text.

    Raises:
        ConfigError: as ``compare`` does.
        DataError: as ``compare`` does.
    """
    check_columns(items, [name])
    if not is_text(items, name):
        return pl.any_horizontal([compare(items, name, "=", value, notes) for value in values])
    by_letter, numbers, moments = _sort_out(items, name, values)
    tests = [_text(name).is_in(by_letter)] if by_letter else []
    tests += [_compare_text_as_number(items, name, "=", value) for value in numbers]
    tests += [_compare_text_as_moment(items, name, "=", value) for value in moments]
    return pl.any_horizontal(tests)


def _compare_text(items: pl.DataFrame, name: str, comparison: Comparison, value: Value) -> pl.Expr:
    """Returns whether text is equal, or is not."""
    _, numbers, moments = _sort_out(items, name, [value])
    if numbers:
        return _compare_text_as_number(items, name, comparison, value.text)
    if moments:
        return _compare_text_as_moment(items, name, comparison, value.text)
    return _ordered(_text(name), comparison, value.text)


def _sort_out(items: pl.DataFrame, name: str, values: list[Value]) -> tuple[list[str], list[str], list[str]]:
    """Returns the values that cells of a text column equal by letter, as numbers and as moments."""
    by_letter: list[str] = []
    numbers: list[str] = []
    moments: list[str] = []
    for value in values:
        text = _not_blank(name, value.text)
        if value.is_quoted or not (_NUMBER.fullmatch(text) or _DAY.match(text)):
            by_letter.append(text)
        else:
            (moments if _DAY.match(text) else numbers).append(text)
    if numbers and not _can_mostly_be_read(items, name, _read_number(name)):
        by_letter, numbers = by_letter + numbers, []
    if moments and not _can_mostly_be_read(items, name, _read_moment(name)):
        by_letter, moments = by_letter + moments, []
    return by_letter, numbers, moments


def _compare_text_as_number(items: pl.DataFrame, name: str, comparison: Comparison, value: str) -> pl.Expr:
    """Returns whether cells are equal as numbers, those that are no numbers by letter; long whole numbers exactly."""
    by_letter, wanted = _ordered(_text(name), comparison, value), _number(items, name, value)
    if wanted >= _NO_INT64:
        return by_letter
    number, whole = _read_number(name), _stripped(name).cast(pl.Int64, strict=False)
    is_exact = isinstance(wanted, float) or abs(wanted) < _FIRST_INEXACT
    as_float = _ordered(number, comparison, float(wanted)) if is_exact else by_letter
    found = pl.when(number.is_not_null()).then(as_float).otherwise(by_letter)
    if isinstance(wanted, float):
        return found
    return pl.when(whole.is_not_null()).then(_ordered(whole, comparison, wanted)).otherwise(found)


def _compare_text_as_moment(items: pl.DataFrame, name: str, comparison: Comparison, value: str) -> pl.Expr:
    """Returns whether cells are equal as moments, those that are none by letter."""
    moment = _read_moment(name)
    found = _compare_moments(items, name, moment, comparison, value)
    return pl.when(moment.is_not_null()).then(found).otherwise(_ordered(_text(name), comparison, value))


def is_text(items: pl.DataFrame, name: str) -> bool:
    """Returns whether a column holds text."""
    return isinstance(items.schema[name], _TEXT_TYPES)


def contains(items: pl.DataFrame, name: str, value: str) -> pl.Expr:
    """Returns whether ``value`` stands anywhere in a text, or is an element of a list; null where there is neither.

    Upper and lower case are the same. Text that joins a list by commas, as ``itemic prepare`` writes lists, is text.

    Raises:
        ConfigError: if there is no such column, or it holds neither lists nor text, or lists of another type.
    """
    check_columns(items, [name])
    dtype = items.schema[name]
    if isinstance(dtype, _TEXT_TYPES):
        return _text(name).str.to_lowercase().str.contains(_not_blank(name, value).lower(), literal=True)
    if not isinstance(dtype, (pl.List, pl.Array)):
        raise ConfigError(f"column {name!r} is {_described(dtype)}: contains needs text or lists")
    inner = dtype.inner
    column = pl.col(name).cast(pl.List(inner))
    if isinstance(inner, _TEXT_TYPES):
        folded = column.cast(pl.List(pl.String)).list.eval(pl.element().str.to_lowercase())
        return folded.list.contains(value.lower())
    if inner.is_integer() and re.fullmatch(r"[+-]?\d{1,18}", value):
        return column.cast(pl.List(pl.Int64)).list.contains(int(value))
    if inner.is_float() and _NUMBER.fullmatch(value):
        return column.cast(pl.List(pl.Float64)).list.contains(float(value))
    raise ConfigError(f"column {name!r} holds lists of {_described(inner)}, found {value!r}")


def is_missing(items: pl.DataFrame, name: str) -> pl.Expr:
    """Returns whether a column has no value; blank text and a float that is not a number are none.

    Raises:
        ConfigError: if there is no such column.
    """
    check_columns(items, [name])
    dtype, column = items.schema[name], pl.col(name)
    if isinstance(dtype, _TEXT_TYPES):
        return _text(name).is_null()
    return column.is_null() | column.is_nan().fill_null(False) if dtype.is_float() else column.is_null()


def is_recent(items: pl.DataFrame, name: str, age: timedelta, now: datetime, notes: Notes) -> pl.Expr:
    """Returns whether a column's moment lies in the time of length ``age`` that ends now; null where it has none.

    Args:
        items: The catalogue.
        name: Column of dates, datetimes, whole seconds since 1970, or any of them as text.
        age: Longest time since.
        now: The present in UTC, without a zone.
        notes: Gets a note of cells that are no moment, and so count as missing.

    Raises:
        ConfigError: if there is no such column, or it has no moments.
        DataError: if most values of the column are no moments.
    """
    check_columns(items, [name])
    moment = _as_moment(items, name, notes)
    try:
        since = now - age
    except OverflowError:
        raise ConfigError(f"column {name!r}: {age.days:,} days before {now:%Y-%m-%d} there is no date") from None
    return (moment >= since) & (moment <= now)


def _compare_moments(items: pl.DataFrame, name: str, moment: pl.Expr, comparison: Comparison, value: str) -> pl.Expr:
    try:
        if _DAY.fullmatch(value):
            return _ordered(moment.dt.date(), comparison, date.fromisoformat(value))
        parsed = datetime.fromisoformat(value)
    except ValueError:
        dtype = _described(items.schema[name])
        raise ConfigError(
            f"column {name!r} is {dtype}: expected a date such as 2024-05-01 or 2024-05-01T18:00, found {value!r}"
        ) from None
    if parsed.tzinfo is not None:
        parsed = parsed.astimezone(UTC).replace(tzinfo=None)
    return _ordered(moment, comparison, parsed)


def _ordered(column: pl.Expr, comparison: Comparison, value: object) -> pl.Expr:
    literal = pl.lit(value)
    compared = {
        "=": column.eq,
        "!=": column.ne,
        "<": column.lt,
        "<=": column.le,
        ">": column.gt,
        ">=": column.ge,
    }
    return compared[comparison](literal)


def _number(items: pl.DataFrame, name: str, value: str) -> int | float:
    if not _NUMBER.fullmatch(value):
        raise ConfigError(f"column {name!r} is {_described(items.schema[name])}: expected a number, found {value!r}")
    if re.fullmatch(r"[+-]?\d{1,20}", value) and -(2**63) <= int(value) < 2**64:
        return int(value)
    return float(value)


def _truth(name: str, value: str) -> str:
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"column {name!r} is true or false, found {value!r}")
    return value.lower()


def _not_blank(name: str, value: str) -> str:
    if not value.strip():
        raise ConfigError(f"blank text counts as missing: write {name} is null")
    return value


def _as_number(items: pl.DataFrame, name: str, notes: Notes) -> pl.Expr:
    column, dtype = pl.col(name), items.schema[name]
    if dtype.is_float():
        return column.fill_nan(None)
    if dtype.is_numeric():
        return column
    number = _read_number(name)
    _note_unread(items, name, number, "a number", notes)
    return number


def _read_number(name: str) -> pl.Expr:
    """Returns the numbers of a text column, null where a cell is none."""
    return _stripped(name).cast(pl.Float64, strict=False).fill_nan(None)


def _as_moment(items: pl.DataFrame, name: str, notes: Notes) -> pl.Expr:
    """Returns the column as a moment in UTC without a zone; one without a zone is in UTC already."""
    column, dtype = pl.col(name), items.schema[name]
    if isinstance(dtype, pl.Date):
        return column.cast(pl.Datetime("us"))
    if isinstance(dtype, pl.Datetime):
        in_utc = column if dtype.time_zone is None else column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return in_utc.cast(pl.Datetime("us"))
    if dtype.is_integer():
        moment = _from_seconds(column)
    elif isinstance(dtype, _TEXT_TYPES):
        moment = _read_moment(name)
    else:
        raise ConfigError(f"column {name!r} is {_described(dtype)}: it has no moments")
    _note_unread(items, name, moment, "an ISO 8601 date or time, or whole seconds since 1970 (1973 to 2100)", notes)
    return moment


def _read_moment(name: str) -> pl.Expr:
    """Returns the moments of a text column, null where a cell is none."""
    text = _stripped(name).str.replace(" ", "T", literal=True)
    day = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    zoned = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us", time_zone="UTC")
    plain = [text.str.to_datetime(form, strict=False, time_unit="us") for form in _MOMENT_FORMATS]
    seconds = _from_seconds(text.cast(pl.Int64, strict=False))
    return pl.coalesce(day, *plain, zoned.dt.replace_time_zone(None), seconds)


def _from_seconds(column: pl.Expr) -> pl.Expr:
    seconds = pl.when(column.is_between(_FIRST_SECOND, _LAST_SECOND)).then(column.cast(pl.Int64))
    return pl.from_epoch(seconds, time_unit="s").cast(pl.Datetime("us"))


def _text(name: str) -> pl.Expr:
    """Returns a text column letter by letter, null where it is blank."""
    text = pl.col(name).cast(pl.String)
    return pl.when(text.str.strip_chars() != "").then(text)


def _stripped(name: str) -> pl.Expr:
    """Returns a text column without blanks around it, null where nothing is left."""
    text = pl.col(name).cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)


def _can_mostly_be_read(items: pl.DataFrame, name: str, reading: pl.Expr) -> bool:
    """Returns whether no more than half of the cells with a value have no reading, as ``_note_unread`` asks for."""
    has_value = ~is_missing(items, name)
    counts = items.select(unread=(reading.is_null() & has_value).sum(), cells=has_value.sum())
    return 2 * int(counts["unread"][0]) <= int(counts["cells"][0])


def _note_unread(items: pl.DataFrame, name: str, reading: pl.Expr, what: str, notes: Notes) -> None:
    """Notes the cells with a value that cannot be read.

    Raises:
        DataError: if most cells with a value cannot be read: the column then holds something else.
    """
    has_value = ~is_missing(items, name)
    unread = items.lazy().filter(reading.is_null() & has_value).select("item_id", pl.col(name).alias("value"))
    num_unread, num_cells, first = pl.collect_all(
        [unread.select(pl.len()), items.lazy().filter(has_value).select(pl.len()), unread.head(1)]
    )
    if first.is_empty():
        return
    item_id, value = first.row(0)
    column = f"column {name!r} ({_described(items.schema[name])})"
    counted = f"{num_unread.item():,} of {num_cells.item():,} cells"
    found = f"found {value!r} at item {item_id!r}"
    if 2 * num_unread.item() > num_cells.item():
        raise DataError(f"{column}: expected {what}, {found}; {counted} cannot be read so")
    notes[f"{name}: {what}"] = f"{column}: {counted} count as missing; expected {what}, first {found}"


def _described(dtype: object) -> str:
    return "text" if isinstance(dtype, _TEXT_TYPES) else str(dtype)
