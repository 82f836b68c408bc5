"""Normalised discounted cumulative gain: a hit counts less the lower it stands."""

import numpy as np
from jaxtyping import Float, Int

from itemic.evaluate.metrics.expectation import expected_gain, ranks_to

__all__ = ["ndcg"]


def ndcg(num_better: Int[np.ndarray, "B"], num_tied: Int[np.ndarray, "B"], cutoff: int) -> Float[np.ndarray, "B"]:
    """Returns the expected NDCG of each example with its one target.

        NDCG@K = 1 / log2(rank + 1) if rank <= K, else 0        (the ideal list has the target first: IDCG = 1)

    Args:
        num_better: Number of items listed with a higher score.
        num_tied: Size of the target's tie group, itself included; 0 where it is not listed.
        cutoff: K.

    Raises:
        ConfigError: if the cut-off is below 1.
    """
    return expected_gain(1 / np.log2(ranks_to(cutoff) + 1), num_better, num_tied)
