"""Groups of like first codes, so that a tree with hundreds of them can be read; no part of any SID."""

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import leaves_list, linkage
from sklearn.cluster import KMeans

from itemic.sid.quality.vectors import unit_rows

__all__ = ["group_items"]

_READABLE = 24
_MAX_GROUPS = 32


def group_items(first_codes: Int[np.ndarray, "n"], x: Float[np.ndarray, "n D"]) -> Int[np.ndarray, "n"] | None:
    """Returns the group of each item, the same for all items of one first code; None for up to 24 first codes.

    The mean directions of the first codes' items are clustered by k-means into about the square root of their number;
    groups are numbered so that neighbours are alike (optimal leaf order, average linkage).

    Args:
        first_codes: First code of each item.
        x: Vectors of the items.
    """
    names, code = np.unique(first_codes, return_inverse=True)
    if len(names) <= _READABLE:
        return None
    order = np.argsort(code, kind="stable")
    starts = np.searchsorted(code[order], np.arange(len(names)))
    means = unit_rows(np.add.reduceat(unit_rows(x)[order], starts, axis=0))
    num_groups = min(_MAX_GROUPS, round(len(names) ** 0.5))
    found = KMeans(num_groups, n_init=4, random_state=0).fit(means)
    place = np.empty(num_groups, dtype=np.int64)
    place[leaves_list(linkage(found.cluster_centers_, "average", optimal_ordering=True))] = np.arange(num_groups)
    _, group = np.unique(place[found.labels_], return_inverse=True)
    numbers: np.ndarray = group[code]
    return numbers
