"""How numbers, times and names are written for readers, on the page and in the terminal; knows no artefact."""

import datetime
import math

__all__ = [
    "shorten",
    "write_count",
    "write_date",
    "write_duration",
    "write_interval",
    "write_metric",
    "write_milliseconds",
    "write_number",
    "write_p_value",
    "write_percent",
    "write_quantity",
    "write_signed",
]

Number = int | float

_MISSING = "–"


def shorten(text: str, num_characters: int) -> str:
    """Returns the text's words in one line, cut with an ellipsis where it is longer than ``num_characters``."""
    line = " ".join(text.split())
    return line if len(line) <= num_characters else line[: num_characters - 1].rstrip() + "…"


def write_count(value: Number | None) -> str:
    """Returns a whole number with thousands separated: ``1,682``; a dash for None."""
    return _MISSING if value is None else f"{round(value):,}"


def write_metric(value: Number | None) -> str:
    """Returns a metric with four decimals, the field's habit: ``0.0523``; a dash for None or NaN."""
    return _MISSING if value is None or math.isnan(value) else f"{value:.4f}"


def write_signed(value: Number | None) -> str:
    """Returns a difference of metrics with its sign, a true minus included: ``+0.0041``, ``−0.0112``."""
    return _MISSING if value is None or math.isnan(value) else f"{value:+.4f}".replace("-", "−")


def write_interval(low: Number | None, high: Number | None) -> str:
    """Returns an interval of metrics, ``0.0488 to 0.0561``; nothing where there is none."""
    return "" if low is None or high is None else f"{write_metric(low)} to {write_metric(high)}".replace("-", "−")


def write_percent(share: Number | None, decimals: int = 1) -> str:
    """Returns a share of one as percent: ``12.4%``; a share that rounds to 0 but is more reads ``<0.1%``."""
    if share is None or math.isnan(share):
        return _MISSING
    smallest = 10.0**-decimals
    if 0 < 100 * share < smallest / 2:
        return f"<{smallest:.{decimals}f}%"
    return f"{100 * share:.{decimals}f}%"


def write_p_value(value: Number | None) -> str:
    """Returns a p-value with three decimals; ``< 0.001`` below that."""
    if value is None:
        return _MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def write_number(value: Number | None) -> str:
    """Returns any number with about three significant digits: ``0.00123``, ``12.3``, ``4,560``, ``1.2e-05``."""
    if value is None or math.isnan(value):
        return _MISSING
    size = abs(value)
    if size != 0 and size < 1e-4:
        return f"{value:.1e}"
    if size >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def write_quantity(count: int) -> str:
    """Returns a large count as is usual for parameters and tokens: ``4.21M``, ``1.7B``."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def write_duration(seconds: Number | None) -> str:
    """Returns a time span in the one or two largest units: ``0.4 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds is None:
        return _MISSING
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two_units(whole, 60, "min", 1, "s")
    if whole < 86_400:
        return _two_units(whole, 3600, "h", 60, "min")
    return _two_units(whole, 86_400, "d", 3600, "h")


def write_milliseconds(value: Number | None) -> str:
    """Returns milliseconds as such, however many, so that a column compares: ``0.41 ms``, ``12.3 ms``, ``1,204 ms``."""
    if value is None:
        return _MISSING
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def write_date(timestamp: Number | None) -> str:
    """Returns the UTC day of seconds since 1970, ``1998-04-22``; a dash for None."""
    if timestamp is None:
        return _MISSING
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=float(timestamp))
    return moment.date().isoformat()


def _two_units(whole: int, large: int, large_name: str, small: int, small_name: str) -> str:
    head, tail = whole // large, whole % large // small
    return f"{head} {large_name} {tail} {small_name}" if tail else f"{head} {large_name}"
