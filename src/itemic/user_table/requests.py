"""What is asked for a chunk of users: histories and filters as item rows, checked. Knows no file format."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from itemic.core.errors import DataError
from itemic.data.lookup import ItemRows

__all__ = [
    "NOT_THERE",
    "ItemLists",
    "Requests",
    "UnknownItems",
    "make_requests",
    "requests_of_rows",
    "require_no_null",
    "unusable_item",
]

UnknownItems = Literal["error", "drop"]

NOT_THERE = "is no item of the run's catalogue"
"""What is wrong with an unknown id."""


@dataclass(frozen=True, eq=False)
class ItemLists:
    """A list of item rows for each user, end to end in one array."""

    item: Int[np.ndarray, "I"]
    start: Int[np.ndarray, "n1"]
    """Place of each user's first item, and the number of items: one more than there are users."""

    @property
    def length(self) -> Int[np.ndarray, "n"]:
        """Number of items of each user."""
        lengths: np.ndarray = np.diff(self.start)
        return lengths

    def select(self, users: Int[np.ndarray, "b"]) -> list[list[int]]:
        """Returns the lists of some users."""
        return [self.item[self.start[user] : self.start[user + 1]].tolist() for user in users]

    def keep(self, is_kept: Bool[np.ndarray, "I"]) -> "ItemLists":
        """Returns the lists without some of their entries."""
        before = np.concatenate([[0], np.cumsum(is_kept)])
        return ItemLists(self.item[is_kept], before[self.start])


@dataclass(frozen=True, kw_only=True, eq=False)
class Requests:
    """One chunk of users."""

    user_id: pl.Series
    """In the type that the source has."""
    history: ItemLists
    """Oldest first."""
    exclude: ItemLists
    """Items that must not appear, beside those that the run leaves out anyway."""
    allow: ItemLists
    """The only items that may appear, for users who have such a list."""
    has_allow: Bool[np.ndarray, "n"]
    """Whether a user has one; an empty one allows nothing."""
    num_dropped: int
    """Unknown items that were left out of the lists."""

    def __len__(self) -> int:
        return len(self.user_id)


def make_requests(
    block: pl.DataFrame, items: ItemRows, active: Bool[np.ndarray, "N"], unknown_items: UnknownItems, file: str
) -> Requests:
    """Returns the requests of some rows of a user table.

    Args:
        block: ``row`` (1-based), ``user_id``, ``history`` (list of ids) and, where there are such, ``exclude`` and
            ``allow`` (lists of ids, null for a user without one).
        items: The catalogue's ids.
        active: Whether an item can be recommended; a retired one may stand anywhere but in ``allow``.
        unknown_items: Whether unknown ids (and retired ones in ``allow``) are an error or are left out and counted.
        file: What the table is called in messages.

    Raises:
        DataError: naming file, row, user and item of the first cell that cannot be used.
    """
    require_no_null(block, "user_id", file)
    require_no_null(block, "history", file)
    found = {name: _item_lists(block, name, items, unknown_items, file) for name in ("history", "exclude", "allow")}
    allow, num_retired = _without_retired(found["allow"][0], active, block, unknown_items, file)
    is_given = block["allow"].is_not_null().to_numpy() if "allow" in block.columns else np.zeros(len(block), dtype=bool)
    return Requests(
        user_id=block["user_id"],
        history=found["history"][0],
        exclude=found["exclude"][0],
        allow=allow,
        has_allow=is_given,
        num_dropped=num_retired + sum(num_dropped for _, num_dropped in found.values()),
    )


def requests_of_rows(user_id: pl.Series, history: ItemLists, num_dropped: int = 0) -> Requests:
    """Returns the requests of users whose histories are item rows already and who have no lists of their own."""
    none = ItemLists(np.empty(0, dtype=np.int64), np.zeros(len(user_id) + 1, dtype=np.int64))
    return Requests(
        user_id=user_id,
        history=history,
        exclude=none,
        allow=none,
        has_allow=np.zeros(len(user_id), dtype=bool),
        num_dropped=num_dropped,
    )


def require_no_null(block: pl.DataFrame, column: str, file: str) -> None:
    """Raises DataError, naming the first row, if a column has a null.

    Args:
        block: ``row`` and the column.
        column: Its name.
        file: What the table is called in messages.
    """
    if block[column].null_count():
        row = block.filter(pl.col(column).is_null())["row"][0]
        remedy = "; write an empty list for a user without one" if column == "history" else ""
        raise DataError(f"{file} row {row}: {column} is null{remedy}")


def unusable_item(file: str, row: int, user: object, column: str, item: object, fault: str) -> DataError:
    """Returns the error for an id in a user table that cannot stand where it does.

    Args:
        file: What the table is called.
        row: Number of the row.
        user: Id of the user.
        column: Name of the column.
        item: The id, None for a null.
        fault: What is wrong with it, "is retired" say.
    """
    what = "holds a null" if item is None else f"holds {item!r}, which {fault}"
    return DataError(
        f"{file} row {row} (user {user!r}): {column} {what}; correct it, or leave such items out with "
        "--unknown-items drop (unknown_items='drop')"
    )


def _item_lists(
    block: pl.DataFrame, column: str, items: ItemRows, unknown_items: UnknownItems, file: str
) -> tuple[ItemLists, int]:
    """Returns a column's lists as item rows and how many of their entries were left out."""
    if column not in block.columns:
        return ItemLists(np.empty(0, dtype=np.int64), np.zeros(len(block) + 1, dtype=np.int64)), 0
    lengths = block[column].list.len().fill_null(0).to_numpy().astype(np.int64)
    ids = block[column].filter(pl.Series(lengths > 0)).explode()
    found = ItemLists(items.find(ids), np.concatenate([[0], np.cumsum(lengths)]))
    is_known = found.item >= 0
    if is_known.all():
        return found, 0
    if unknown_items == "error":
        entry = int(np.flatnonzero(~is_known)[0])
        user = int(np.searchsorted(found.start, entry, side="right")) - 1
        raise unusable_item(file, block["row"][user], block["user_id"][user], column, ids[entry], NOT_THERE)
    return found.keep(is_known), int((~is_known).sum())


def _without_retired(
    allow: ItemLists, active: Bool[np.ndarray, "N"], block: pl.DataFrame, unknown_items: UnknownItems, file: str
) -> tuple[ItemLists, int]:
    """Returns the allow lists without retired items, and how many these were."""
    is_active = active[allow.item]
    if is_active.all():
        return allow, 0
    if unknown_items == "error":
        entry = int(np.flatnonzero(~is_active)[0])
        user = int(np.searchsorted(allow.start, entry, side="right")) - 1
        item = block["allow"][user][entry - int(allow.start[user])]
        fault = "is retired and cannot be recommended"
        raise unusable_item(file, block["row"][user], block["user_id"][user], "allow", item, fault)
    return allow.keep(is_active), int((~is_active).sum())
