"""Diversity inside a list: how unlike each other the items are that one user is shown."""

import numpy as np
from jaxtyping import Float, Int

__all__ = ["diversity"]

_LISTS_AT_ONCE = 256


def diversity(item_index: Int[np.ndarray, "B K"], vectors: Float[np.ndarray, "N D"]) -> float | None:
    """Returns the mean over lists of the mean distance between two different slots; None where no list has two items.

        Diversity@K = mean over lists of  2 / (n (n - 1)) * sum over slots i < j of (1 - cos(v_i, v_j))

    with n the list's items and v their text vectors: the intra-list distance of Ziegler et al. (2005), Castells et al.
    (2015). It lies in [0, 2]: 0 where all items of a list have one text, 1 where their vectors are at right angles, as
    a vector of zeros is to all.

    Args:
        item_index: Lists cut at K; -1 is an empty slot. A list of fewer than two items has no distance: it is left out.
        vectors: A vector of every item of the catalogue, of any length.
    """
    total, num_lists = 0.0, 0
    for start in range(0, len(item_index), _LISTS_AT_ONCE):
        lists = item_index[start : start + _LISTS_AT_ONCE]
        lists = lists[(lists >= 0).sum(axis=1) > 1]
        units = _unit_vectors(lists, vectors)
        num_items = (lists >= 0).sum(axis=1)
        # The cosines of all ordered pairs of different slots are |sum|^2 less those of each slot with itself.
        cosines = np.square(units.sum(axis=1)).sum(axis=1) - np.square(units).sum(axis=(1, 2))
        total += float((1 - cosines / (num_items * (num_items - 1))).sum())
        num_lists += len(lists)
    return max(total / num_lists, 0.0) if num_lists else None


def _unit_vectors(lists: Int[np.ndarray, "b K"], vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "b K D"]:
    """Returns the slots' vectors with length 1, zeros for empty slots and for vectors of zeros."""
    picked = vectors[np.maximum(lists, 0)].astype(np.float64)
    lengths = np.linalg.norm(picked, axis=2, keepdims=True)
    units: np.ndarray = picked / np.where(lengths > 0, lengths, 1) * (lists >= 0)[:, :, None]
    return units
