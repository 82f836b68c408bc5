"""What reinforcement learning gained on the evaluated examples, by the paired test; in words for page and terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from itemic.core.page.formats import write_p_value
from itemic.evaluate.report.focus import BEFORE_RL, OWN_NAME, compared, score

__all__ = ["ALPHA", "RlGain", "rl_gain", "write_sureness"]

ALPHA = 0.05
"""A difference is clear where its p-value is below."""


@dataclass(frozen=True, kw_only=True)
class RlGain:
    """The model after reinforcement learning beside the one before."""

    difference: float
    """Of the metric, after less before."""
    is_clear: bool
    """Whether the paired test says that chance alone hardly gives as much; no without a test."""
    text: str
    """All of it in a sentence."""


def rl_gain(metrics: Mapping[str, Any], cutoff: int) -> RlGain | None:
    """Returns what reinforcement learning gained by NDCG at a cut-off; None where not both models were evaluated.

    Args:
        metrics: ``metrics.json``.
        cutoff: Of the metric.
    """
    label = f"NDCG@{cutoff}"
    if not {OWN_NAME, BEFORE_RL} <= metrics["recommenders"].keys():
        return None
    after, before = (float(score(metrics, name, label)["value"]) for name in (OWN_NAME, BEFORE_RL))
    comparison = compared(metrics, OWN_NAME, BEFORE_RL, label)
    change = f"{100 * (after / before - 1):+.1f}%".replace("-", "−") if before else f"{after - before:+.4f}"
    sureness = "" if comparison is None else f", {write_sureness(comparison)}"
    return RlGain(
        difference=after - before,
        is_clear=comparison is not None and comparison["p_value"] < ALPHA,
        text=f"Reinforcement learning: {label} {change} against the model before{sureness}.",
    )


def write_sureness(comparison: Mapping[str, Any]) -> str:
    """Returns the p-value of a paired test in words."""
    p_value = write_p_value(comparison["p_value"])
    sign = "" if p_value.startswith("<") else "= "
    clear = "a clear difference" if comparison["p_value"] < ALPHA else "not a clear difference"
    return f"{clear}, p {sign}{p_value}"
