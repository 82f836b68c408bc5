"""How long one user waits: requests asked one at a time, as measured where the evaluation runs.

Throughput (``users_per_s``) comes from whole batches and says little of this. Knows no model.
"""

import time
from collections.abc import Callable

import numpy as np

from itemic.core.ranking import Recommender
from itemic.core.seeds import derive_rng
from itemic.evaluate.protocol import EvaluationSet

__all__ = ["measure_latency"]

_NUM_WARM_UP = 3
"""Requests before the first that counts: first calls allocate, compile and fill caches."""


def measure_latency(
    recommender: Recommender,
    cases: EvaluationSet,
    k: int,
    *,
    num_requests: int,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float] | None:
    """Returns the median and the 95th percentile of the milliseconds that a request of one user takes.

    The users are drawn by the seed, with replacement where there are too few, and are the same for all recommenders;
    what each must not be shown is excluded as in the evaluation.

    Args:
        recommender: What is asked.
        cases: The examples of the evaluation.
        k: Length of a list.
        num_requests: Requests that count, after some that warm up; 0 measures nothing.
        seed: Of the run.
        clock: Seconds from any fixed instant.

    Returns:
        ``p50`` and ``p95`` in milliseconds; None without requests.
    """
    if num_requests == 0:
        return None
    rng = derive_rng(seed, "evaluate", "latency")
    num_drawn = num_requests + _NUM_WARM_UP
    rows = rng.choice(len(cases), num_drawn, replace=num_drawn > len(cases))
    milliseconds = []
    for row in rows[:, None]:
        history, exclude = cases.histories(row), cases.excluded(row)
        started = clock()
        recommender.recommend(history, k, exclude=exclude)
        milliseconds.append(1000 * (clock() - started))
    p50, p95 = np.percentile(milliseconds[_NUM_WARM_UP:], (50, 95)).tolist()
    return {"p50": round(p50, 3), "p95": round(p95, 3)}
