"""Items on one SID are coded anew at the last level by balanced assignment, as MiniOneRec (arXiv 2510.24431) does.

Only the items that collide are looked at, each group by itself, so they may land on SIDs of others; and items with
equal vectors stay together whatever is done. Knows nothing of files.

Neural quantizers balance batches in training by a Sinkhorn of their own (``quantizers.vector_quantization``): one
table in the log domain, float32, on the network's device. Here there are many small tables, done at once in float64,
where plain sums are exact enough and faster.
"""

import logging
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from itemic.sid.order import num_distinct_rows, same_row_ids
from itemic.sid.quantizers.protocol import Quantizer

__all__ = ["resolve_sinkhorn", "sinkhorn_assignment"]

_EPSILON = 0.003
_NUM_ROUNDS = 20
_NUM_ITERATIONS = 50
_CELLS_AT_ONCE = 1 << 21
_MOST_CELLS = 1 << 24
"""Of one group's table, items times codes, eight bytes each: 128 MiB, of which there are a few copies."""

log = logging.getLogger("itemic")


def resolve_sinkhorn(
    codes: Int[np.ndarray, "N L"], x: Float[np.ndarray, "N D"], quantizer: Quantizer
) -> Int[np.ndarray, "N L"]:
    """Returns codes with as many distinct SIDs as before or more; some items may still share one.

    Up to 20 rounds: every group of items on one SID gets last codes by :func:`sinkhorn_assignment`. The round with
    the most distinct SIDs counts (MiniOneRec takes the last one), and a round that changes nothing ends it.

    A group of more items than there are last codes cannot get a SID for each, and mostly holds items that are the
    same: it stays as it is (MiniOneRec spreads it), and so does one whose table would have more than 2^24 cells.
    A warning says how many items that are.

    Args:
        codes: What the quantizer gave each item.
        x: The vectors behind them.
        quantizer: Fitted; its ``distances`` at the last level are what is balanced.
    """
    best, current = codes, codes
    for _ in range(_NUM_ROUNDS):
        again = _one_round(current, x, quantizer)
        if np.array_equal(again, current):
            break
        if num_distinct_rows(again) > num_distinct_rows(best):
            best = again
        current = again
    _warn_of_large_groups(best, quantizer.codebook_sizes[-1])
    return best.copy()


def sinkhorn_assignment(
    distance: Float[np.ndarray, "G n K"], epsilon: float = _EPSILON, num_iterations: int = _NUM_ITERATIONS
) -> Int[np.ndarray, "G n"]:
    """Returns the code of each item when all codes of a group must be used alike.

    Q = argmin_Q <Q, d> − ε H(Q) with equal row and equal column sums, by Sinkhorn's iteration; the code is
    argmax_k Q_ik. As in MiniOneRec d is first moved and scaled to about [−1, 1]: d ← (d − m) / (max d − m + 1e-5)
    with m the middle between min d and max d of the group.

    Args:
        distance: Cost of each code, for G groups of n items.
        epsilon: Weight of the entropy. Default: MiniOneRec.
        num_iterations: Of scaling rows, then columns. Default: MiniOneRec.
    """
    d = distance.astype(np.float64)
    most, least = d.max(axis=(1, 2), keepdims=True), d.min(axis=(1, 2), keepdims=True)
    middle = (most + least) / 2
    log_q = -(d - middle) / (most - middle + 1e-5) / epsilon
    # With the default ε the least is exp(-667), which float64 still holds; the floor is for smaller ones. After one
    # round every row and column has an entry of at least 1 / (n K), so nothing is ever divided by zero.
    q = np.maximum(np.exp(log_q - log_q.max(axis=2, keepdims=True)), np.finfo(np.float64).tiny)
    for _ in range(num_iterations):
        q /= q.sum(axis=2, keepdims=True)
        q /= q.sum(axis=1, keepdims=True)
    assigned: np.ndarray = q.argmax(axis=2)
    return assigned


def _one_round(
    codes: Int[np.ndarray, "N L"], x: Float[np.ndarray, "N D"], quantizer: Quantizer
) -> Int[np.ndarray, "N L"]:
    again = codes.copy()
    for rows in _groups_of_one_size(codes, quantizer.codebook_sizes[-1]):
        flat = rows.ravel()
        distance = quantizer.distances(x[flat], codes[flat, :-1])
        again[flat, -1] = sinkhorn_assignment(distance.reshape(*rows.shape, -1)).ravel()
    return again


def _groups_of_one_size(codes: Int[np.ndarray, "N L"], num_codes: int) -> Iterator[Int[np.ndarray, "G n"]]:
    """Yields the rows on each SID that several items have: groups of equal size at once, none that is too large."""
    ids = same_row_ids(codes)
    counts = np.bincount(ids)
    order = np.argsort(ids, kind="stable")
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts[(counts > 1) & (counts <= _most_items(num_codes))]).tolist():
        firsts = starts[counts == size]
        at_once = max(1, _CELLS_AT_ONCE // (size * num_codes))
        for first in range(0, len(firsts), at_once):
            yield order[firsts[first : first + at_once, None] + np.arange(size)]


def _most_items(num_codes: int) -> int:
    """Returns the size of the largest group that is looked at."""
    return min(num_codes, _MOST_CELLS // num_codes)


def _warn_of_large_groups(codes: Int[np.ndarray, "N L"], num_codes: int) -> None:
    counts = np.bincount(same_row_ids(codes))
    large = counts[counts > max(1, _most_items(num_codes))]
    if len(large):
        log.warning(
            "collisions: sinkhorn leaves %d items on %d SIDs as they are: more than %d items on one SID are not parted",
            large.sum(),
            len(large),
            _most_items(num_codes),
        )
