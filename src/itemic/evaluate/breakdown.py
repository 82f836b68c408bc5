"""Groups of examples by history length and by the popularity of the target, with fixed edges, and by its being cold.

Fixed edges keep the groups of two datasets or two preparations comparable. Knows nothing of metrics.
"""

import itertools

import numpy as np
from jaxtyping import Bool, Int

__all__ = ["HISTORY_LENGTH_EDGES", "TARGET_POPULARITY_EDGES", "bucket_names", "buckets", "temperatures"]

HISTORY_LENGTH_EDGES = (0, 1, 3, 6, 11, 21, 51)
"""First history length of each group: 0, 1-2, 3-5, 6-10, 11-20, 21-50, 51+."""

TARGET_POPULARITY_EDGES = (0, 1, 6, 21, 101)
"""First number of training interactions of each group: 0 (never seen in training), 1-5, 6-20, 21-100, 101+."""


def bucket_names(edges: tuple[int, ...]) -> list[str]:
    """Returns the name of each group: ``3-5``, ``0`` for a single value, ``51+`` for the last."""
    names = [f"{low}-{high - 1}" if high - 1 > low else f"{low}" for low, high in itertools.pairwise(edges)]
    return [*names, f"{edges[-1]}+"]


def buckets(values: Int[np.ndarray, "B"], edges: tuple[int, ...]) -> list[tuple[str, Int[np.ndarray, "n"]]]:
    """Returns the name and the rows of every group that has any, in the order of the edges.

    Args:
        values: Not below the first edge.
        edges: First value of each group, rising.
    """
    group = np.searchsorted(np.array(edges), values, side="right") - 1
    members = [(name, np.flatnonzero(group == index)) for index, name in enumerate(bucket_names(edges))]
    return [(name, rows) for name, rows in members if len(rows)]


def temperatures(is_cold: Bool[np.ndarray, "B"]) -> list[tuple[str, Int[np.ndarray, "n"]]]:
    """Returns the rows of the cold and of the warm examples under these names, of those that have any.

    Args:
        is_cold: Whether the target was kept from all learning.
    """
    members = [("cold", np.flatnonzero(is_cold)), ("warm", np.flatnonzero(~is_cold))]
    return [(name, rows) for name, rows in members if len(rows)]
