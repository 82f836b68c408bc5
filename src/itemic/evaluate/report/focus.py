"""Which recommender a report is about, and how it stands to the others; reads ``metrics.json`` as a mapping."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from itemic.core.errors import ArtifactError, ConfigError

__all__ = ["BEFORE_RL", "OWN_NAME", "Standing", "compared", "pick_cutoff", "ranked_names", "score", "standing"]

OWN_NAME = "itemic"
"""The run's model among the recommenders."""
BEFORE_RL = "itemic before RL"
"""The model that RL began with: the same model at another age, so no rival of it."""
_USUAL_CUTOFF = 10


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The recommender a report is about, beside the best of the others."""

    label: str
    """Metric by which they are compared, ``NDCG@10`` say."""
    focus: str
    """Name of the recommender the page puts in front."""
    rival: str | None
    """The best of the others by the metric; None if there is no other."""
    order: tuple[str, ...]
    """All recommenders, best first."""
    ranked: tuple[str, ...]
    """The focus and its rivals, best first: all but the model before RL beside the one after it."""
    comparison: Mapping[str, Any] | None
    """The paired comparison of focus and rival by the metric, turned so that ``a`` is the focus; None if not made."""


def standing(metrics: Mapping[str, Any], cutoff: int, focus: str | None) -> Standing:
    """Returns which recommender the page is about and who comes next to it.

    Args:
        metrics: ``metrics.json``.
        cutoff: Cut-off of the metric they are compared by.
        focus: Name, or None for "itemic" and, where there is no such recommender, the best one.

    Raises:
        ArtifactError: if the metrics hold no recommender.
        ConfigError: if there is no such recommender.
    """
    order = ranked_names(metrics, cutoff)
    if focus is not None and focus not in order:
        raise ConfigError(f"focus {focus!r}: metrics.json has the recommenders {', '.join(sorted(order))}")
    chosen = focus or (OWN_NAME if OWN_NAME in order else order[0])
    ranked = tuple(name for name in order if chosen != OWN_NAME or name != BEFORE_RL)
    rival = next((name for name in ranked if name != chosen), None)
    label = f"NDCG@{cutoff}"
    comparison = compared(metrics, chosen, rival, label)
    return Standing(label=label, focus=chosen, rival=rival, order=order, ranked=ranked, comparison=comparison)


def pick_cutoff(metrics: Mapping[str, Any], cutoff: int | None) -> int:
    """Returns ``cutoff``; for None 10 or, where that was not evaluated, the largest.

    Raises:
        ConfigError: if the cut-off was not evaluated.
    """
    cutoffs: list[int] = metrics["protocol"]["cutoffs"]
    if cutoff is None:
        return _USUAL_CUTOFF if _USUAL_CUTOFF in cutoffs else max(cutoffs)
    if cutoff not in cutoffs:
        raise ConfigError(f"cutoff {cutoff}: metrics.json has {', '.join(map(str, cutoffs))}")
    return cutoff


def ranked_names(metrics: Mapping[str, Any], cutoff: int) -> tuple[str, ...]:
    """Returns the recommenders' names, the highest NDCG at ``cutoff`` first.

    Raises:
        ArtifactError: if there is none, or one lacks the metric.
    """
    recommenders = metrics["recommenders"]
    if not recommenders:
        raise ArtifactError("metrics.json holds no recommender; run itemic evaluate again")
    return tuple(sorted(recommenders, key=lambda name: -score(metrics, name, f"NDCG@{cutoff}")["value"]))


def score(metrics: Mapping[str, Any], name: str, label: str) -> Mapping[str, Any]:
    """Returns value (and low and high, where they were made) of one metric of one recommender.

    Raises:
        ArtifactError: if the metric is not there.
    """
    scores = metrics["recommenders"][name]["metrics"]
    if label not in scores:
        raise ArtifactError(f"metrics.json: {name} has no {label}; run itemic evaluate again")
    found: Mapping[str, Any] = scores[label]
    return found


def compared(metrics: Mapping[str, Any], focus: str, rival: str | None, label: str) -> Mapping[str, Any] | None:
    """Returns the paired comparison of two recommenders, turned so that ``a`` is the first; None if not made.

    Args:
        metrics: ``metrics.json``.
        focus: One recommender.
        rival: The other.
        label: The metric, ``NDCG@10`` say.
    """
    for made in metrics.get("comparisons", ()):
        if made["metric"] == label and (made["a"], made["b"]) == (focus, rival):
            return dict(made)
        if made["metric"] == label and (made["b"], made["a"]) == (focus, rival):
            turned = {"a": focus, "b": rival, "difference": -made["difference"]}
            return {**made, **turned, "low": -made["high"], "high": -made["low"]}
    return None
