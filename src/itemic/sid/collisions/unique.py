"""Makes every semantic ID unique at fixed length, moving as few items as little as possible.

Works with any quantizer through its ``distances``; knows nothing of item ids or files.

Level by level, coarse first, the items under one prefix are dealt to the codes of the next level: a code has room
for as many items as SIDs are free below it, one at the last level. Items keep their code while there is room; the
others move to another code under the same prefix. So an item keeps the longest prefix that it can, and since no
prefix is ever given more items than it has room for, one pass over the levels always ends with unique SIDs.
"""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from itemic.core.errors import CatalogError
from itemic.core.progress import track
from itemic.sid.order import lexicographic_order, run_starts
from itemic.sid.quantizers.protocol import Quantizer, complete_codes

__all__ = ["resolve_unique"]

_ROWS_AT_ONCE = 1 << 16


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
    last = len(sizes) - 1
    for level in range(len(sizes)):
        crowded = _crowded_prefixes(codes, taken, sizes, level)
        for rows, room in track(crowded, "resolving collisions"):
            prefix = codes[rows, :level]
            current = codes[rows, level]
            if level == last:
                codes[rows, level] = _one_item_a_code(quantizer.distances(x[rows], prefix), current, room)
                continue
            chosen = _spill(quantizer, x[rows], prefix, current, room)
            moved = chosen != current
            new_prefix = np.column_stack([prefix[moved], chosen[moved]])
            codes[rows[moved]] = complete_codes(quantizer, x[rows[moved]], new_prefix)
    return codes


def _crowded_prefixes(
    codes: Int[np.ndarray, "N L"], taken: Int[np.ndarray, "M L"], sizes: tuple[int, ...], level: int
) -> Iterator[tuple[Int[np.ndarray, "n"], Int[np.ndarray, "K"]]]:
    """Yields the rows under each prefix of ``level`` codes in which some next code has more items than room.

    With them comes the room of every next code: the number of SIDs below it that are not taken.
    """
    everything = np.concatenate([taken, codes])[:, : level + 1]
    order = lexicographic_order(everything)
    in_order = everything[order]
    capacity = math.prod(sizes[level + 1 :])
    code_starts = np.flatnonzero(run_starts(in_order))
    crowded = np.diff(np.append(code_starts, len(order))) > capacity
    prefix_starts = np.flatnonzero(run_starts(in_order[:, :level]))
    prefix_of_code = np.searchsorted(prefix_starts, code_starts, side="right") - 1
    prefix_ends = np.append(prefix_starts[1:], len(order))
    for prefix in np.unique(prefix_of_code[crowded]):
        members = order[prefix_starts[prefix] : prefix_ends[prefix]]
        held = everything[members[members < len(taken)], level]
        rows = members[members >= len(taken)] - len(taken)
        yield np.sort(rows), capacity - np.bincount(held, minlength=sizes[level])


def _one_item_a_code(
    distance: Float[np.ndarray, "n K"], current: Int[np.ndarray, "n"], room: Int[np.ndarray, "K"]
) -> Int[np.ndarray, "n"]:
    """Returns a different code with room for each item: the nearest item keeps its code, the rest are assigned."""
    own = distance[np.arange(len(current)), current]
    nearest_first = np.lexsort((own, current))
    keeps = np.zeros(len(current), dtype=bool)
    keeps[nearest_first] = run_starts(current[nearest_first][:, None])
    keeps &= room[current] > 0
    free = room > 0
    free[current[keeps]] = False
    losers, free_codes = np.flatnonzero(~keeps), np.flatnonzero(free)
    _, column = linear_sum_assignment(distance[np.ix_(losers, free_codes)])
    chosen = current.copy()
    chosen[losers] = free_codes[column]
    return chosen


def _spill(
    quantizer: Quantizer,
    x: Float[np.ndarray, "n D"],
    prefix: Int[np.ndarray, "n l"],
    current: Int[np.ndarray, "n"],
    room: Int[np.ndarray, "K"],
) -> Int[np.ndarray, "n"]:
    """Returns codes of which none has more items than room; the items that lose least have moved.

    An item's loss is the distance to the nearest code with space left minus the distance to its own. Each round
    moves items in the order of their loss until their target is full; a round that leaves a code over-full has
    filled another one, so there are at most K rounds.
    """
    chosen = current.copy()
    rows = np.arange(len(chosen))
    while True:
        space = room - np.bincount(chosen, minlength=len(room))
        if (space >= 0).all():
            return chosen
        candidates = rows[space[chosen] < 0]
        target, loss = _nearest_with_space(quantizer, x[candidates], prefix[candidates], chosen[candidates], space)
        order = np.argsort(loss, kind="stable")
        candidates, target = candidates[order], target[order]
        leaves = _rank_among_equals(chosen[candidates]) < -space[chosen[candidates]]
        candidates, target = candidates[leaves], target[leaves]
        enters = _rank_among_equals(target) < space[target]
        chosen[candidates[enters]] = target[enters]


def _nearest_with_space(
    quantizer: Quantizer,
    x: Float[np.ndarray, "n D"],
    prefix: Int[np.ndarray, "n l"],
    own: Int[np.ndarray, "n"],
    space: Int[np.ndarray, "K"],
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Returns for each item the nearest code with space and what it loses by it.

    In pieces: at the first level all items may be asked about, whose distances to all codes are too much at once.
    """
    target, loss = np.empty(len(x), dtype=np.int64), np.empty(len(x), dtype=np.float64)
    for first in range(0, len(x), _ROWS_AT_ONCE):
        piece = slice(first, first + _ROWS_AT_ONCE)
        distance = quantizer.distances(x[piece], prefix[piece])
        reachable = np.where(space > 0, distance, np.inf)
        target[piece] = reachable.argmin(axis=1)
        loss[piece] = reachable.min(axis=1) - distance[np.arange(len(distance)), own[piece]]
    return target, loss


def _rank_among_equals(values: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Returns for each place how many equal values come before it."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(run_starts(values[order][:, None]))
    lengths = np.diff(np.append(starts, len(values)))
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = np.arange(len(values)) - np.repeat(starts, lengths)
    return rank
