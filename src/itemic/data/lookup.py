"""Items by what a person types, an id or a title, and by millions of ids at a time; knows no file and no user."""

import difflib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from itemic.core.errors import DataError

__all__ = ["ItemLookup", "ItemRows", "check_texts", "find_items"]

_NUM_HINTS = 3
_NUM_SEEDS = 8


class ItemRows:
    """The catalogue's ids as sorted hashes: 16 bytes an item, and no Python object for an id that is looked up."""

    def __init__(self, item_ids: pl.Series) -> None:
        """Sorts the hashes; of ten million ids two share a 64-bit hash once in 400,000 seeds, then another is taken.

        Args:
            item_ids: Distinct ids; place i is item_index i.
        """
        self._item_ids = item_ids
        for seed in range(_NUM_SEEDS):
            hashes = item_ids.hash(seed).to_numpy()
            order = np.argsort(hashes)
            self._seed, self._order, self._sorted = seed, order, hashes[order]
            if not (self._sorted[1:] == self._sorted[:-1]).any():
                return
        raise AssertionError("item ids are not distinct")

    def find(self, ids: pl.Series) -> Int[np.ndarray, "n"]:
        """Returns the item index of each id, -1 where no item has it; blanks around an id do not count.

        Args:
            ids: Texts or whole numbers.
        """
        texts = ids.cast(pl.String).str.strip_chars()
        place = np.searchsorted(self._sorted, texts.hash(self._seed).to_numpy())
        index = self._order[np.minimum(place, len(self._order) - 1)]
        is_there = (self._item_ids.gather(index) == texts).fill_null(False).to_numpy()
        found: np.ndarray = np.where(is_there, index, -1)
        return found


class ItemLookup:
    """A catalogue that is asked for items by id or title; each index is made when it is first needed, and once."""

    def __init__(self, items: pl.DataFrame) -> None:
        """Keeps the catalogue.

        Args:
            items: A Dataset's items: row i is item_index i.
        """
        self._items = items

    def find(self, queries: Sequence[str], what: str = "items") -> list[int]:
        """Returns the item index of each query: the item with that id, else the only one with that title.

        Titles are compared without regard to case and surrounding blanks.

        Args:
            queries: Ids and titles, in any mixture.
            what: What the queries are, for messages.

        Raises:
            DataError: naming the nearest titles where there is none, or the ids where several items have the title. If
                the queries are one text, or one of them is none.
        """
        check_texts(queries, what)
        if not len(queries):
            return []
        found: list[int] = self._rows.find(pl.Series(queries, dtype=pl.String)).tolist()
        titles = {_folded(query) for query, index in zip(queries, found, strict=True) if index < 0}
        if not titles:
            return found
        with_title: dict[str, list[int]] = {title: [] for title in titles}
        for index in self._titles.is_in(list(titles)).fill_null(False).arg_true().to_list():
            with_title[self._titles[index]].append(index)
        return [
            self._only(query, with_title[_folded(query)]) if index < 0 else index
            for query, index in zip(queries, found, strict=True)
        ]

    def _only(self, query: str, found: list[int]) -> int:
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(self._items["item_id"].gather(found))
            raise DataError(f"{len(found)} items have the title {query!r}: give one of the ids {ids}")
        titles = self._titles.drop_nulls().unique(maintain_order=True).to_list()
        nearest = _nearest(titles, _folded(query))
        names = "; ".join(repr(self._items["title"].filter(self._titles == title)[0]) for title in nearest)
        raise DataError(f"no item has the id or title {query!r}; the nearest titles are {names}")

    @functools.cached_property
    def _rows(self) -> ItemRows:
        return ItemRows(self._items["item_id"])

    @functools.cached_property
    def _titles(self) -> pl.Series:
        folded = [None if title is None else _folded(title) for title in self._items["title"].to_list()]
        return pl.Series(folded, dtype=pl.String)


def find_items(items: pl.DataFrame, queries: Sequence[str]) -> list[int]:
    """Returns the item index of each query, as ``ItemLookup.find`` does, of a catalogue that is asked once.

    Args:
        items: A Dataset's items.
        queries: Ids and titles, in any mixture.

    Raises:
        DataError: as ``ItemLookup.find``.
    """
    return ItemLookup(items).find(queries)


def check_texts(queries: Sequence[Any], what: str) -> None:
    """Refuses what is no list of texts.

    Args:
        queries: Should be ids and titles.
        what: What they are, for the message.

    Raises:
        DataError: naming the first that is none.
    """
    if isinstance(queries, str):
        raise DataError(f"{what} is the one text {queries!r}; expected a list of ids or titles: [{queries!r}]")
    for place, query in enumerate(queries):
        if not isinstance(query, str):
            kind = type(query).__name__
            raise DataError(
                f"{what}[{place}] is {query!r} ({kind}); expected an id or title as text, {str(query)!r} say"
            )


def _nearest(titles: list[str], query: str) -> list[str]:
    starting = sorted(title for title in titles if title.startswith(query))
    similar = difflib.get_close_matches(query, titles, n=_NUM_HINTS, cutoff=0.0)
    return list(dict.fromkeys([*starting, *similar]))[:_NUM_HINTS]


def _folded(title: str) -> str:
    return title.strip().casefold()
