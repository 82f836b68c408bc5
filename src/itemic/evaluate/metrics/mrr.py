"""Mean reciprocal rank."""

import numpy as np
from jaxtyping import Float, Int

from itemic.evaluate.metrics.expectation import expected_gain, ranks_to

__all__ = ["mrr"]


def mrr(num_better: Int[np.ndarray, "B"], num_tied: Int[np.ndarray, "B"], cutoff: int) -> Float[np.ndarray, "B"]:
    """Returns the expected reciprocal rank of each target, 0 beyond the cut-off.

        MRR@K = 1 / rank if rank <= K, else 0

    Args:
        num_better: Number of items listed with a higher score.
        num_tied: Size of the target's tie group, itself included; 0 where it is not listed.
        cutoff: K.

    Raises:
        ConfigError: if the cut-off is below 1.
    """
    return expected_gain(1 / ranks_to(cutoff), num_better, num_tied)
