"""Makes every semantic ID unique at fixed length, moving as few items as little as possible.

Works with any quantizer through its ``distances``; knows nothing of item ids or files.

Level by level, coarse first, the items under one prefix are dealt to the codes of the next level: a code has room
for as many items as SIDs are free below it, one at the last level. Items keep their code while there is room; the
others move to another code under the same prefix. So an item keeps the longest prefix that it can, and since no
prefix is ever given more items than it has room for, one pass over the levels always ends with unique SIDs.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from itemic.core.errors import CatalogError
from itemic.core.progress import track
from itemic.sid.collisions.spill import spill
from itemic.sid.order import lexicographic_order, run_starts
from itemic.sid.quantizers.protocol import Quantizer, pieces

__all__ = ["resolve_unique"]

_CELLS_AT_ONCE = 1 << 24
_ROUNDING = 1e-6
"""Differences of float32 distances, as a share of the largest, that mean nothing."""


def resolve_unique(
    codes: Int[np.ndarray, "N L"],
    x: Float[np.ndarray, "N D"],
    quantizer: Quantizer,
    taken: Int[np.ndarray, "M L"] | None = None,
) -> Int[np.ndarray, "N L"]:
    """Returns unique codes, none of them taken.

    An item moves only if its SID is taken, if another item has or gets the same one, or if its prefix is over-full.
    Of the items on one SID the nearest keeps it. The others move to free last codes under the same prefix so that
    the sum of their squared distances is least (an assignment problem). Where a prefix holds more items than it has
    last codes, the items that lose least by it move to the next nearest prefix that has room and are coded anew
    below it. Ties go to the lower row.

    Time grows with N and memory too, apart from about 300 MiB for the pieces: a million identical items take 500 MiB
    beyond ``x`` and the codes. Vectors are read in pieces.

    Args:
        codes: What the quantizer (or anybody else) gave each item.
        x: The vectors behind them.
        quantizer: Fitted; its ``distances`` say what a move costs.
        taken: SIDs of other items, which must stay theirs: those of a catalog that is to grow.

    Raises:
        CatalogError: if there are fewer SIDs than items.
    """
    # Items may share what is taken: it takes one SID from the free ones all the same.
    taken = np.empty((0, codes.shape[1]), dtype=np.int64) if taken is None else np.unique(taken, axis=0)
    sizes = quantizer.codebook_sizes
    if len(codes) + len(taken) > math.prod(sizes):
        raise CatalogError(
            f"{len(codes) + len(taken)} items cannot have unique SIDs: codebook sizes {sizes} spell only "
            f"{math.prod(sizes)}; make a codebook larger or add a level"
        )
    codes = codes.copy()
    has_moved = np.zeros(len(codes), dtype=bool)
    for level in range(len(sizes) - 1):
        _take_nearest(codes, np.flatnonzero(has_moved), x, quantizer, level)
        crowds = _find_crowds(codes, taken, sizes, level)
        for number in track(range(crowds.count), "making room"):
            rows, room = crowds.only(number), crowds.room(number)
            chosen = _spill_prefix(codes, rows, room, x, quantizer, level)
            has_moved[rows] |= chosen != codes[rows, level]
            codes[rows, level] = chosen
    _take_nearest(codes, np.flatnonzero(has_moved), x, quantizer, len(sizes) - 1)
    crowds = _find_crowds(codes, taken, sizes, len(sizes) - 1)
    for first, last in track(crowds.batches(_CELLS_AT_ONCE), "resolving collisions"):
        rows, group = crowds.some(first, last)
        distance = quantizer.distances(x[rows], codes[rows, :-1])
        codes[rows, -1] = _deal_last_codes(distance, codes[rows, -1], group, crowds.free(first, last))
    return codes


@dataclass(frozen=True, kw_only=True, eq=False)
class _Crowds:
    """The items under every prefix in which some next code has more items than room, prefix by prefix."""

    rows: Int[np.ndarray, "n"]
    """Rows of the codes, ascending under each prefix."""
    row_starts: Int[np.ndarray, "_"]
    """Where each prefix begins in ``rows``, and their end."""
    held: Int[np.ndarray, "m"]
    """Next code of every SID that is taken, prefix by prefix."""
    held_starts: Int[np.ndarray, "_"]
    """Where each prefix begins in ``held``, and its end."""
    num_codes: int
    """Number of next codes K."""
    capacity: int
    """SIDs below each next code."""

    @property
    def count(self) -> int:
        """Number of prefixes."""
        return len(self.row_starts) - 1

    def only(self, number: int) -> Int[np.ndarray, "n"]:
        """Returns the rows under one prefix."""
        return self.rows[self.row_starts[number] : self.row_starts[number + 1]]

    def room(self, number: int) -> Int[np.ndarray, "K"]:
        """Returns the number of SIDs below each next code of a prefix that are not taken."""
        held = self.held[self.held_starts[number] : self.held_starts[number + 1]]
        room: np.ndarray = self.capacity - np.bincount(held, minlength=self.num_codes)
        return room

    def some(self, first: int, last: int) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Returns the rows under prefixes ``first`` to ``last`` - 1, and which of these each belongs to, from 0."""
        starts = self.row_starts[first : last + 1]
        return self.rows[starts[0] : starts[-1]], np.repeat(np.arange(last - first), np.diff(starts))

    def free(self, first: int, last: int) -> Bool[np.ndarray, "G K"]:
        """Returns which last codes of some prefixes are not taken."""
        starts = self.held_starts[first : last + 1]
        free = np.ones((last - first, self.num_codes), dtype=bool)
        free[np.repeat(np.arange(last - first), np.diff(starts)), self.held[starts[0] : starts[-1]]] = False
        return free

    def batches(self, num_cells: int) -> list[tuple[int, int]]:
        """Returns ranges of prefixes with about ``num_cells`` distances each."""
        num_rows = max(1, num_cells // self.num_codes)
        batch = self.row_starts[:-1] // num_rows
        firsts = np.flatnonzero(run_starts(batch[:, None]))
        return list(pairwise([*firsts.tolist(), self.count]))


def _find_crowds(
    codes: Int[np.ndarray, "N L"], taken: Int[np.ndarray, "M L"], sizes: tuple[int, ...], level: int
) -> _Crowds:
    """Returns the items under each prefix of ``level`` codes in which some next code has more items than room."""
    everything = np.concatenate([taken, codes])[:, : level + 1]
    order = lexicographic_order(everything)
    in_order = everything[order]
    capacity = math.prod(sizes[level + 1 :])
    code_starts = np.flatnonzero(run_starts(in_order))
    crowded = np.diff(np.append(code_starts, len(order))) > capacity
    prefix = np.cumsum(run_starts(in_order[:, :level])) - 1
    is_crowded = np.zeros(prefix[-1] + 1, dtype=bool)
    is_crowded[prefix[code_starts[crowded]]] = True
    inside = is_crowded[prefix]
    number = (np.cumsum(is_crowded) - 1)[prefix[inside]]
    members = order[inside]
    is_taken = members < len(taken)
    rows, row_number = members[~is_taken] - len(taken), number[~is_taken]
    bounds = np.arange(is_crowded.sum() + 1)
    return _Crowds(
        rows=rows[np.lexsort((rows, row_number))],
        row_starts=np.searchsorted(row_number, bounds),
        held=taken[members[is_taken], level],
        held_starts=np.searchsorted(number[is_taken], bounds),
        num_codes=sizes[level],
        capacity=capacity,
    )


def _take_nearest(
    codes: Int[np.ndarray, "N L"],
    rows: Int[np.ndarray, "n"],
    x: Float[np.ndarray, "N D"],
    quantizer: Quantizer,
    level: int,
) -> None:
    """Writes the nearest code of a level to some rows, those with another prefix than they had."""
    for piece in pieces(len(rows)):
        part = rows[piece]
        codes[part, level] = quantizer.distances(x[part], codes[part, :level]).argmin(axis=1)


def _spill_prefix(
    codes: Int[np.ndarray, "N L"],
    rows: Int[np.ndarray, "n"],
    room: Int[np.ndarray, "K"],
    x: Float[np.ndarray, "N D"],
    quantizer: Quantizer,
    level: int,
) -> Int[np.ndarray, "n"]:
    """Returns codes of a level for the rows under one prefix, none with more items than it has room for."""

    def costs(some: Int[np.ndarray, "m"]) -> Float[np.ndarray, "m K"]:
        return quantizer.distances(x[rows[some]], codes[rows[some], :level])

    return spill(costs, codes[rows, level], room)


def _deal_last_codes(
    distance: Float[np.ndarray, "n K"],
    current: Int[np.ndarray, "n"],
    group: Int[np.ndarray, "n"],
    free: Bool[np.ndarray, "G K"],
) -> Int[np.ndarray, "n"]:
    """Returns a last code for each item, different under each prefix (group): the nearest keeps it, others move."""
    own = distance[np.arange(len(current)), current]
    nearest_first = np.lexsort((own, current, group))
    keeps = np.zeros(len(current), dtype=bool)
    keeps[nearest_first] = run_starts(np.column_stack([group, current])[nearest_first])
    keeps &= free[group, current]
    free = free.copy()
    free[group[keeps], current[keeps]] = False
    losers = np.flatnonzero(~keeps)
    chosen = current.copy()
    chosen[losers] = _least_sum(distance[losers], group[losers], free)
    return chosen


def _least_sum(
    distance: Float[np.ndarray, "n K"], group: Int[np.ndarray, "n"], free: Bool[np.ndarray, "G K"]
) -> Int[np.ndarray, "n"]:
    """Returns a free code for each item, different within a group, with the least sum of distances in each group.

    If no two items of a group are nearest to the same free code, the nearest codes are that. Only the other groups
    are assignment problems.
    """
    chosen: np.ndarray = np.where(free[group], distance, np.inf).argmin(axis=1)
    starts = np.flatnonzero(run_starts(group[:, None]))
    wanted = np.unique(group * free.shape[1] + chosen) // free.shape[1]
    sizes = np.diff(np.append(starts, len(group)))
    contested = sizes > np.bincount(wanted, minlength=len(free))[group[starts]]
    for start, size in zip(starts[contested].tolist(), sizes[contested].tolist(), strict=True):
        codes = np.flatnonzero(free[group[start]])
        chosen[start : start + size] = codes[_assign(distance[start : start + size, codes])]
    return chosen


def _assign(distance: Float[np.ndarray, "n F"]) -> Int[np.ndarray, "n"]:
    """Returns a column for each row, different ones, with the least sum of distances.

    The solver is slow on rows that are alike, so what they have in common is taken out first. Where they are the same
    but for rounding every deal of the nearest columns is as good. Where no column is left over the least distance of
    a column counts whoever gets it.
    """
    # Imported late: whoever opens a catalog comes by here, and scipy.optimize takes a quarter of a second.
    from scipy.optimize import linear_sum_assignment

    least = distance.min(axis=0)
    if (distance.max(axis=0) - least).max() <= _ROUNDING * distance.max():
        return np.argsort(least, kind="stable")[: len(distance)]
    num_rows, num_columns = distance.shape
    column: np.ndarray = linear_sum_assignment(distance - least if num_rows == num_columns else distance)[1]
    return column
