"""The conditional logit: which of many candidates was chosen, explained by a few features; knows no items or models.

    p(c | example) = exp(w . f_c + o_c) / sum over candidates d of exp(w . f_d + o_d)

The weights maximise the likelihood of what was chosen (McFadden, "Conditional logit analysis of qualitative choice
behavior", 1974). There are a few features and the likelihood is concave, so Newton's steps are exact and few.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import DataError

__all__ = ["ChoiceTable", "chosen_log_likelihood", "fit_logit", "linear_scores"]

_MAX_STEPS = 50
_TOLERANCE = 1e-7
"""Fall of the loss per example below which a step was the last."""
_ROWS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class ChoiceTable:
    """Examples, each with C candidates of which one was chosen."""

    features: Float[np.ndarray, "B C F"]
    """Features of every candidate."""
    offset: Float[np.ndarray, "B C"]
    """Added to a candidate's score: the log of how many others it stands for, 0 for itself alone; -inf for a column
    that is no candidate."""
    chosen: Int[np.ndarray, "B"]
    """Column of the candidate that was chosen."""

    def __post_init__(self) -> None:
        offset = self.offset[np.arange(len(self.chosen)), self.chosen]
        if not np.isfinite(offset).all():
            raise DataError(f"example {int(np.flatnonzero(~np.isfinite(offset))[0])}: what was chosen is no candidate")


def fit_logit(
    table: ChoiceTable,
    *,
    l2: float,
    rows: Int[np.ndarray, "b"] | None = None,
    start: Float[np.ndarray, "F"] | None = None,
) -> Float[np.ndarray, "F"]:
    """Returns the weights that minimise the mean of -log p(chosen) plus l2 / 2 times their sum of squares.

    Args:
        table: The examples.
        l2: Strength of the penalty, above 0 where features repeat each other.
        rows: The examples to learn from; all where None.
        start: Where to begin, a neighbouring fit say; 0 where None.

    Raises:
        DataError: if there is no example.
    """
    rows = np.arange(len(table.chosen)) if rows is None else rows
    if not len(rows):
        raise DataError("no example to fit weights to")
    weights = np.zeros(table.features.shape[2]) if start is None else start.astype(np.float64)
    loss, gradient, curvature = _derivatives(table, weights, rows, l2)
    for _ in range(_MAX_STEPS):
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        size, before = 1.0, loss
        promised = float(gradient @ step)
        if promised < _TOLERANCE:
            break
        while size > 1e-6:
            loss, gradient_there, curvature_there = _derivatives(table, weights - size * step, rows, l2)
            if loss <= before - 1e-4 * size * promised:
                weights, gradient, curvature = weights - size * step, gradient_there, curvature_there
                break
            size /= 2
        if before - loss < _TOLERANCE:
            break
    return weights


def linear_scores(
    table: ChoiceTable, weights: Float[np.ndarray, "F"], rows: Int[np.ndarray, "b"]
) -> Float[np.ndarray, "b C"]:
    """Returns w . f of every candidate, -inf for a column that is none; offsets are not scores and stay out."""
    score = table.features[rows] @ weights.astype(table.features.dtype)
    masked: np.ndarray = np.where(np.isfinite(table.offset[rows]), score, -np.inf)
    return masked


def chosen_log_likelihood(
    table: ChoiceTable, weights: Float[np.ndarray, "F"], rows: Int[np.ndarray, "b"] | None = None
) -> Float[np.ndarray, "b"]:
    """Returns log p(chosen) of each example."""
    rows = np.arange(len(table.chosen)) if rows is None else rows
    parts = [logprob for _, logprob, *_ in _softmax(table, weights, rows)]
    return np.concatenate([np.empty(0), *parts])


def _softmax(
    table: ChoiceTable, weights: Float[np.ndarray, "F"], rows: Int[np.ndarray, "b"]
) -> Iterator[tuple[Int[np.ndarray, "r"], Float[np.ndarray, "r"], Float[np.ndarray, "r C"]]]:
    """Yields for a few examples at a time rows, log p(chosen) and all candidates' probabilities."""
    narrow = weights.astype(table.features.dtype)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        score = table.features[some] @ narrow + table.offset[some]
        score -= score.max(axis=1, keepdims=True)
        own = score[np.arange(len(some)), table.chosen[some]].astype(np.float64)
        share = np.exp(score, out=score)
        total = share.sum(axis=1, keepdims=True, dtype=np.float64)
        share /= total.astype(share.dtype)
        yield some, own - np.log(total[:, 0]), share


def _derivatives(
    table: ChoiceTable, weights: Float[np.ndarray, "F"], rows: Int[np.ndarray, "b"], l2: float
) -> tuple[float, Float[np.ndarray, "F"], Float[np.ndarray, "F F"]]:
    """Returns the loss, its gradient E[f] - f_chosen and its curvature Cov[f], means over the examples."""
    num_features = len(weights)
    loss, gradient, curvature = 0.0, np.zeros(num_features), np.zeros((num_features, num_features))
    for some, logprob, share in _softmax(table, weights, rows):
        features = table.features[some]
        expected = (share[:, None] @ features)[:, 0].astype(np.float64)
        loss -= float(logprob.sum())
        gradient += (expected - features[np.arange(len(some)), table.chosen[some]]).sum(axis=0)
        weighted = (features * share[..., None]).reshape(-1, num_features)
        curvature += weighted.T @ features.reshape(-1, num_features) - expected.T @ expected
    count = len(rows)
    penalty = l2 / 2 * float(weights @ weights)
    return loss / count + penalty, gradient / count + l2 * weights, curvature / count + l2 * np.eye(num_features)
