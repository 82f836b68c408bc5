"""Metric labels, ``NDCG@10`` say: which function and which cut-off they mean."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import ConfigError
from itemic.evaluate.metrics.hit_rate import hit_rate
from itemic.evaluate.metrics.mrr import mrr
from itemic.evaluate.metrics.ndcg import ndcg
from itemic.evaluate.metrics.recall import recall

__all__ = ["RANK_METRICS", "parse_label", "rank_metric", "spell_label"]

RANK_METRICS: dict[str, Callable[..., np.ndarray]] = {"HR": hit_rate, "Recall": recall, "NDCG": ndcg, "MRR": mrr}
"""Metrics of one example, by their label: functions of (num_better, num_tied, cutoff)."""


def parse_label(label: str) -> tuple[str, int]:
    """Returns the name and the cut-off of a label such as ``NDCG@10``.

    Raises:
        ConfigError: if it is no ranking metric with a cut-off of at least 1.
    """
    name, _, cutoff = label.partition("@")
    if name not in RANK_METRICS or not cutoff.isdecimal() or int(cutoff) < 1:
        raise ConfigError(f"metric {label!r}: expected one of {', '.join(RANK_METRICS)} with a cut-off, NDCG@10 say")
    return name, int(cutoff)


def spell_label(label: str) -> str:
    """Returns the label of a metric that was written in whatever case, ``NDCG@10`` of ``ndcg@10``.

    Raises:
        ConfigError: if it is no ranking metric with a cut-off of at least 1.
    """
    name, at, cutoff = label.strip().partition("@")
    spelled = {known.lower(): known for known in RANK_METRICS}.get(name.lower(), name)
    return "@".join(map(str, parse_label(f"{spelled}{at}{cutoff}")))


def rank_metric(label: str, num_better: Int[np.ndarray, "B"], num_tied: Int[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
    """Returns a metric of each example by its label.

    Raises:
        ConfigError: if the label is no ranking metric with a cut-off.
    """
    name, cutoff = parse_label(label)
    return RANK_METRICS[name](num_better, num_tied, cutoff)
