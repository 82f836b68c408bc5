"""Recall: which share of an example's targets is in the list."""

import numpy as np
from jaxtyping import Float, Int

from itemic.evaluate.metrics.hit_rate import hit_rate

__all__ = ["recall"]


def recall(
    num_better: Int[np.ndarray, "P"],
    num_tied: Int[np.ndarray, "P"],
    cutoff: int,
    owner: Int[np.ndarray, "P"] | None = None,
) -> Float[np.ndarray, "B"]:
    """Returns the expected recall of each example.

        Recall@K = |targets among the first K| / |targets|

    It divides by the number of targets, not by min(K, number of targets), so an example with more than K targets
    cannot reach 1. Expectation is linear, so ties need no joint distribution of an example's targets. With one target
    an example it equals the hit rate.

    Args:
        num_better: For each target the number of items listed with a higher score, other targets included.
        num_tied: For each target the size of its tie group, itself included; 0 where it is not listed.
        cutoff: K.
        owner: Example 0..B-1 that each of the P targets belongs to; None means one target an example.

    Raises:
        ConfigError: if the cut-off is below 1.
    """
    hits = hit_rate(num_better, num_tied, cutoff)
    if owner is None:
        return hits
    return np.bincount(owner, weights=hits) / np.bincount(owner)
