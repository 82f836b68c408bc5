"""What may be wrong with a condition that no item fulfils: values that no item has. Knows no set and no request."""

import difflib
from datetime import datetime

import polars as pl

from itemic.decode.conditions.columns import compare, is_text
from itemic.decode.conditions.parse import values_asked_for

__all__ = ["missing_values"]

_MOST_COMPARED = 20_000
_NUM_SHOWN = 5


def missing_values(items: pl.DataFrame, condition: str, now: datetime) -> list[str]:
    """Returns a sentence for each value that a text column should equal and no item has, with one that is like it.

    Args:
        items: The catalogue.
        condition: One that can be understood.
        now: The present in UTC, without a zone.
    """
    found = []
    for name, value in dict.fromkeys(values_asked_for(condition, items, now)):
        if is_text(items, name) and not items.select(compare(items, name, "=", value, {}).any()).item():
            found.append(f"no item has {value.text!r} in the column {name!r}; {_nearest(items[name], value.text)}")
    return found


def _nearest(column: pl.Series, value: str) -> str:
    """Returns what to write instead; of very many values the most frequent ones are looked at."""
    cells = column.cast(pl.String).str.strip_chars().drop_nulls().alias("value")
    counts = cells.value_counts(name="times").sort("times", "value", descending=[True, False])
    values = [each for each in counts["value"].head(_MOST_COMPARED).to_list() if each]
    by_folded = {each.casefold(): each for each in reversed(values)}
    near = difflib.get_close_matches(value.casefold(), list(by_folded), n=1)
    if near:
        return f"did you mean {by_folded[near[0]]!r}?"
    shown = ", ".join(map(repr, values[:_NUM_SHOWN])) + (", ..." if len(values) > _NUM_SHOWN else "")
    return f"there is {shown or 'nothing'}"
