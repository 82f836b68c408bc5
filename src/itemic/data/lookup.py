"""Items by what a person types: an id or a title."""

import difflib
from collections.abc import Sequence

import polars as pl

from itemic.core.errors import DataError

__all__ = ["find_items"]

_NUM_HINTS = 3


def find_items(items: pl.DataFrame, queries: Sequence[str]) -> list[int]:
    """Returns the item index of each query: the item with that id, else the only one with that title.

    Titles are compared without regard to case and surrounding blanks.

    Args:
        items: A Dataset's items.
        queries: Ids and titles, in any mixture.

    Raises:
        DataError: naming the nearest titles where there is none, or the ids where several items have the title.
    """
    by_id = dict(items.select("item_id", "item_index").iter_rows())
    titles: dict[str, list[int]] = {}
    for index, title in items.select("item_index", "title").iter_rows():
        titles.setdefault(_folded(title), []).append(index)
    return [by_id[query] if query in by_id else _by_title(items, titles, query) for query in queries]


def _by_title(items: pl.DataFrame, titles: dict[str, list[int]], query: str) -> int:
    found = titles.get(_folded(query), [])
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(items["item_id"].gather(found))
        raise DataError(f"{len(found)} items have the title {query!r}: give one of the ids {ids}")
    nearest = _nearest(list(titles), _folded(query))
    names = "; ".join(repr(items["title"][titles[title][0]]) for title in nearest)
    raise DataError(f"no item has the id or title {query!r}; the nearest titles are {names}")


def _nearest(titles: list[str], query: str) -> list[str]:
    starting = sorted(title for title in titles if title.startswith(query))
    similar = difflib.get_close_matches(query, titles, n=_NUM_HINTS, cutoff=0.0)
    return list(dict.fromkeys([*starting, *similar]))[:_NUM_HINTS]


def _folded(title: str) -> str:
    return title.strip().casefold()
