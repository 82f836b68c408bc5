"""Moves items off over-full codes, those that lose least by it first; knows nothing of vectors, levels or prefixes."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from itemic.sid.quantizers.protocol import pieces

__all__ = ["spill"]

_CELLS_AT_ONCE = 1 << 22
_CELLS_KEPT = 1 << 24
"""Wishes kept of all items together, eight bytes each: 128 MiB."""

_FEWEST_WISHES = 8
_FEW_GROUPS = 16
"""Up to here groups are looked at one by one, which is faster than sorting all; beyond it is slower."""


def spill(
    costs: Callable[[Int[np.ndarray, "n"]], Float[np.ndarray, "n K"]],
    current: Int[np.ndarray, "N"],
    room: Int[np.ndarray, "K"],
) -> Int[np.ndarray, "N"]:
    """Returns codes of which none has more items than room; the items that lose least have moved.

    An item's loss is the cost of the cheapest code with space left minus that of its own. Each round moves items in
    the order of their loss, ties by row, until their target is full; a round that leaves a code over-full has filled
    another one, so there are at most K rounds.

    Costs are asked for once: of every item that may move, the cheapest codes are kept in their order, all of them for
    up to 2^24 / K items, fewer, but at least 8, for more (only who has run through them is asked again). So a round
    costs a few operations an item that is still waiting, and memory is at most 128 MiB or 64 bytes an item.

    Args:
        costs: Returns what each code costs the items of some rows, ≥ 0 in float32.
        current: Code of each item.
        room: Most items of each code; together at least as many as there are items.
    """
    assert room.sum() >= len(current)
    chosen = current.copy()
    space = room - np.bincount(current, minlength=len(room))
    rows = np.flatnonzero(space[current] < 0)
    if len(rows) == 0:
        return chosen
    own = current[rows]
    wishes = _Wishes(costs, rows, own, space)
    waiting = np.arange(len(rows))
    while len(waiting):
        leaving = waiting[_least_of_each(wishes.loss[waiting], own[waiting], -space)]
        moving = leaving[_least_of_each(wishes.loss[leaving], wishes.target[leaving], space)]
        chosen[rows[moving]] = wishes.target[moving]
        space += np.bincount(own[moving], minlength=len(room))
        space -= np.bincount(wishes.target[moving], minlength=len(room))
        is_waiting = np.zeros(len(rows), dtype=bool)
        is_waiting[waiting] = space[own[waiting]] < 0
        is_waiting[moving] = False
        waiting = np.flatnonzero(is_waiting)
        wishes.go_on(waiting[space[wishes.target[waiting]] <= 0], space)
    return chosen


class _Wishes:
    """The cheapest code with space of each item and, in their order, the next ones."""

    def __init__(
        self,
        costs: Callable[[Int[np.ndarray, "n"]], Float[np.ndarray, "n K"]],
        rows: Int[np.ndarray, "n"],
        own: Int[np.ndarray, "n"],
        space: Int[np.ndarray, "K"],
    ) -> None:
        self._costs, self._rows, self._own = costs, rows, own
        self._num_kept = min(len(space), max(_FEWEST_WISHES, _CELLS_KEPT // len(rows)))
        # One integer a wish: the bits of its cost, which are ordered as costs >= 0 are, above its code.
        self._keys = np.empty((len(rows), self._num_kept), dtype=np.int64)
        self._at = np.zeros(len(rows), dtype=np.int64)
        self._own_cost = np.empty(len(rows), dtype=np.float32)
        self.target = np.empty(len(rows), dtype=np.int64)
        self.loss = np.empty(len(rows), dtype=np.float32)
        everybody = np.arange(len(rows))
        self._ask(everybody, space)
        self._look(everybody)

    def go_on(self, items: Int[np.ndarray, "n"], space: Int[np.ndarray, "K"]) -> None:
        """Takes items, whose target is full, to their next wish that has space."""
        while len(items):
            self._at[items] += 1
            self._ask(items[self._at[items] == self._num_kept], space)
            self._look(items)
            items = items[space[self.target[items]] <= 0]

    def _ask(self, items: Int[np.ndarray, "n"], space: Int[np.ndarray, "K"]) -> None:
        """Writes the cheapest codes with space of some items, ties by code."""
        codes = np.arange(len(space))
        for piece in pieces(len(items), max(1, _CELLS_AT_ONCE // len(space))):
            part = items[piece]
            cost = np.maximum(self._costs(self._rows[part]), 0, dtype=np.float32)
            self._own_cost[part] = cost[np.arange(len(part)), self._own[part]]
            keys = np.where(space > 0, cost, np.float32(np.inf)).view(np.int32).astype(np.int64) << 32 | codes
            if self._num_kept < len(space):
                keys = np.partition(keys, self._num_kept - 1, axis=1)[:, : self._num_kept]
            self._keys[part] = np.sort(keys, axis=1)
        self._at[items] = 0

    def _look(self, items: Int[np.ndarray, "n"]) -> None:
        keys = self._keys[items, self._at[items]]
        self.target[items] = keys & 0xFFFFFFFF
        self.loss[items] = (keys >> 32).astype(np.int32).view(np.float32) - self._own_cost[items]


def _least_of_each(
    loss: Float[np.ndarray, "n"], group: Int[np.ndarray, "n"], quota: Int[np.ndarray, "K"]
) -> Bool[np.ndarray, "n"]:
    """Returns which places have the least losses of their group, as many as its quota; ties go to the first."""
    contested = np.bincount(group, minlength=len(quota)) > quota
    within: np.ndarray = ~contested[group]
    places = np.flatnonzero(~within)
    if contested.sum() > _FEW_GROUPS:
        places = places[np.lexsort((loss[places], group[places]))]
        starts = np.searchsorted(group[places], np.arange(len(quota)))
        within[places] = np.arange(len(places)) - starts[group[places]] < quota[group[places]]
        return within
    for one in np.flatnonzero(contested & (quota > 0)):
        members = places[group[places] == one]
        limit = np.partition(loss[members], quota[one] - 1)[quota[one] - 1]
        below = loss[members] < limit
        within[members[below]] = True
        equal = members[loss[members] == limit]
        within[equal[: quota[one] - np.count_nonzero(below)]] = True
    return within
