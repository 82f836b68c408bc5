"""One more level that numbers the items of each SID (TIGER, arXiv 2305.05065): a SID for every item, of one length.

Knows nothing of how near another code would be: no item moves, and the last code says nothing about the item.
"""

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import CatalogError
from itemic.sid.order import same_row_ids
from itemic.sid.quantizers.protocol import Quantizer, pieces

__all__ = ["add_suffix", "suffix_size"]

_MAX_SUFFIXES = 1 << 16
_LEAST_SUFFIXES = 4


def add_suffix(
    codes: Int[np.ndarray, "N L"],
    x: Float[np.ndarray, "N D"] | None = None,
    quantizer: Quantizer | None = None,
    taken: Int[np.ndarray, "M S"] | None = None,
) -> Int[np.ndarray, "N S"]:
    """Returns the codes with one more: 0, 1, 2 ... within each SID, the nearest item first, then by row.

    Deviation from TIGER: it gives every item a suffix too, but in no stated order.

    Args:
        codes: As the quantizer gave them.
        x: The vectors behind them; without them the rows alone decide the order.
        quantizer: What tells how near an item is to its last code; goes with ``x``.
        taken: SIDs with their suffix (S = L + 1) of other items: new ones go on after the highest of their SID.
    """
    taken = np.empty((0, codes.shape[1] + 1), dtype=np.int64) if taken is None else taken
    group = same_row_ids(np.concatenate([taken[:, :-1], codes]))
    group_of_taken, group = group[: len(taken)], group[len(taken) :]
    num_groups = int(max(group_of_taken.max(initial=-1), group.max(initial=-1))) + 1
    first = np.zeros(num_groups, dtype=np.int64)
    np.maximum.at(first, group_of_taken, taken[:, -1] + 1)
    distance = np.zeros(len(codes)) if x is None or quantizer is None else _own_distances(codes, x, quantizer, group)
    order = np.lexsort((distance, group))
    counts = np.bincount(group, minlength=num_groups)
    suffix = np.empty(len(codes), dtype=np.int64)
    suffix[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.column_stack([codes, first[group] + suffix])


def suffix_size(suffixes: Int[np.ndarray, "N"]) -> int:
    """Returns how many codes the level of suffixes gets: a power of two, at least 4 and twice those in use.

    The model needs a row for every code that may ever come. Twice as many, so that the items on the fullest SID may
    double before there is no suffix left for a new one.

    Raises:
        CatalogError: if so many items share one SID that the level would have more than 65,536 codes.
    """
    num_used = int(suffixes.max()) + 1
    size = max(_LEAST_SUFFIXES, 1 << (2 * num_used - 1).bit_length())
    if size > _MAX_SUFFIXES:
        raise CatalogError(
            f"{num_used} items share one SID: a suffix for each needs a level of {size} codes, allowed are "
            f"{_MAX_SUFFIXES}; make codebook_sizes larger, or set collisions: unique"
        )
    return size


def _own_distances(
    codes: Int[np.ndarray, "N L"], x: Float[np.ndarray, "N D"], quantizer: Quantizer, group: Int[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """Returns the distance of each item that shares its SID to its last code; 0 for those that need no order."""
    rows = np.flatnonzero(np.bincount(group)[group] > 1)
    distance = np.zeros(len(codes))
    for piece in pieces(len(rows)):
        part = rows[piece]
        every = quantizer.distances(x[part], codes[part, :-1])
        distance[part] = every[np.arange(len(part)), codes[part, -1]]
    return distance
