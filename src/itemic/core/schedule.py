"""Learning rate as a pure function of training progress."""

import math
from typing import Literal

__all__ = ["Schedule", "learning_rate_factor"]

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate_factor(progress: float, schedule: Schedule, warmup: float, floor: float = 0.0) -> float:
    """Returns the factor on the peak learning rate.

    Progress rather than a step count: packing random groups gives epochs of slightly different numbers of steps.

    Args:
        progress: Share of the training that is done, in [0, 1].
        schedule: ``cosine`` and ``linear`` fall to ``floor`` at the end; ``constant`` stays at 1.
        warmup: Share of the training over which the factor rises linearly from 0 to 1.
        floor: Factor at the end.
    """
    if progress < warmup:
        return progress / warmup
    if schedule == "constant":
        return 1.0
    done = min(1.0, (progress - warmup) / max(1e-12, 1.0 - warmup))
    fall = 0.5 * (1.0 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0 - done
    return floor + (1.0 - floor) * fall
