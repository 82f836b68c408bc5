"""Hit rate: how often the target is in the list."""

import numpy as np
from jaxtyping import Float, Int

from itemic.evaluate.metrics.expectation import expected_gain, ranks_to

__all__ = ["hit_rate"]


def hit_rate(num_better: Int[np.ndarray, "B"], num_tied: Int[np.ndarray, "B"], cutoff: int) -> Float[np.ndarray, "B"]:
    """Returns the probability that each target is among the first ``cutoff`` items.

        HR@K = P(rank <= K)

    Args:
        num_better: Number of items listed with a higher score.
        num_tied: Size of the target's tie group, itself included; 0 where it is not listed.
        cutoff: K.

    Raises:
        ConfigError: if the cut-off is below 1.
    """
    return expected_gain(np.ones_like(ranks_to(cutoff)), num_better, num_tied)
