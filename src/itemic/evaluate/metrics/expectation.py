"""The expected gain of a target among ties: what every ranking metric is an instance of.

A metric that pays ``gains[r - 1]`` for a target at rank r is, under a random order of equal scores, the mean of the
gains over the ranks that the tie group fills. Knows nothing of recommenders: a rank is two counts.
"""

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import ConfigError

__all__ = ["expected_gain", "ranks_to"]


def ranks_to(cutoff: int) -> Float[np.ndarray, "K"]:
    """Returns the ranks 1, 2, ..., ``cutoff``.

    Raises:
        ConfigError: if the cut-off is below 1.
    """
    if cutoff < 1:
        raise ConfigError(f"metric cut-off must be at least 1, found {cutoff}")
    return np.arange(1, cutoff + 1, dtype=np.float64)


def expected_gain(
    gains: Float[np.ndarray, "K"], num_better: Int[np.ndarray, "B"], num_tied: Int[np.ndarray, "B"]
) -> Float[np.ndarray, "B"]:
    """Returns the exact expected gain of each target, equal scores being in random order.

    With b better and t tied items, the target among them, the target is at each of the ranks b+1..b+t with
    probability 1/t:

        E = 1/t * sum over r in b+1..min(b+t, K) of gains[r - 1]

    Args:
        gains: What a target at rank 1..K is worth; further ranks are worth nothing.
        num_better: Number of items listed with a higher score, b.
        num_tied: Size of the target's tie group, t; 0 where the target is not listed, which is worth nothing.
    """
    cutoff = len(gains)
    total = np.concatenate([np.zeros(1), np.cumsum(gains)])
    before = total[np.minimum(num_better, cutoff)]
    through = total[np.minimum(num_better + num_tied, cutoff)]
    expected: np.ndarray = (through - before) / np.maximum(num_tied, 1)
    return expected
