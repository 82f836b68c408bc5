"""Items on one SID are coded anew at the last level by balanced assignment, as MiniOneRec (arXiv 2510.24431) does.

Only the items that collide are looked at, each group by itself, so they may land on SIDs of others; and items with
equal vectors stay together whatever is done. Knows nothing of files.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from itemic.sid.order import same_row_ids
from itemic.sid.quantizers.protocol import Quantizer

__all__ = ["resolve_sinkhorn", "sinkhorn_assignment"]

_EPSILON = 0.003
_NUM_ROUNDS = 20
_NUM_ITERATIONS = 50
_CELLS_AT_ONCE = 1 << 21


def resolve_sinkhorn(
    codes: Int[np.ndarray, "N L"], x: Float[np.ndarray, "N D"], quantizer: Quantizer
) -> Int[np.ndarray, "N L"]:
    """Returns codes with as many distinct SIDs as before or more; some items may still share one.

    Up to 20 rounds: every group of items on one SID gets last codes by :func:`sinkhorn_assignment`. The round with
    the most distinct SIDs counts (MiniOneRec takes the last one), and a round that changes nothing ends it.

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
        if _num_distinct(again) > _num_distinct(best):
            best = again
        current = again
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
    """Yields the rows on each SID that several items have: groups of equal size at once, as memory allows."""
    ids = same_row_ids(codes)
    counts = np.bincount(ids)
    order = np.argsort(ids, kind="stable")
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts[counts > 1]).tolist():
        firsts = starts[counts == size]
        at_once = max(1, _CELLS_AT_ONCE // (size * num_codes))
        for first in range(0, len(firsts), at_once):
            yield order[firsts[first : first + at_once, None] + np.arange(size)]


def _num_distinct(codes: Int[np.ndarray, "N L"]) -> int:
    return int(same_row_ids(codes).max()) + 1
