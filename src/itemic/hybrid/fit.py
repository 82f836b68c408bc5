"""Weights of a blend from a table of choices: penalty and a judgement of the weights by cross-validation over users.

Only the weights are new to the users that they are judged on: of members this module knows nothing, and those that
chose an epoch or a setting on the same examples have seen them (``docs/hybrid.md``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import DataError
from itemic.evaluate.metrics.labels import rank_metric
from itemic.hybrid.logit import ChoiceTable, chosen_log_likelihood, fit_logit, linear_scores

__all__ = ["FittedWeights", "fit_weights", "ranking_figures"]

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedWeights:
    """Weights and how they were found."""

    weights: Float[np.ndarray, "F"]
    """Of the features in their own units, fitted to all examples."""
    l2: float
    """Penalty that was chosen, on features of spread 1."""
    log_likelihood: dict[float, float]
    """For each penalty the mean log-probability of targets of users that the weights had not seen."""
    out_of_fold: dict[str, float]
    """Ranking figures where each user is ranked by weights fitted to the other folds, under the penalty that all folds
    chose; members may have been chosen on these very users."""
    num_folds: int
    """Folds of users."""


def fit_weights(
    table: ChoiceTable,
    owner: Int[np.ndarray, "B"],
    *,
    penalties: Sequence[float],
    num_folds: int,
    rng: np.random.Generator,
) -> FittedWeights:
    """Returns the weights under the penalty that explains unseen users best.

    Args:
        table: The examples; its features are scaled to spread 1 in place, and scaled back.
        owner: Number of each example's user; a user's examples share a fold.
        penalties: L2 to choose from.
        num_folds: Folds, at most as many as there are users.
        rng: Deals users into folds.

    Raises:
        DataError: if there are fewer than two users.
    """
    user = np.unique(owner, return_inverse=True)[1]
    num_users = int(user.max(initial=-1)) + 1
    if num_users < 2:
        raise DataError(f"a blend is fitted to at least two users of valid, found {num_users}")
    num_folds = min(num_folds, num_users)
    fold = (rng.permutation(num_users) % num_folds)[user]
    spread = _spread(table)
    table.features[...] /= spread
    found: dict[float, list[np.ndarray]] = {}
    log_likelihood: dict[float, float] = {}
    whole: dict[float, np.ndarray] = {}
    start = None
    for l2 in sorted(penalties, reverse=True):
        start = whole[l2] = fit_logit(table, l2=l2, start=start)
        found[l2] = [
            fit_logit(table, l2=l2, rows=np.flatnonzero(fold != part), start=start) for part in range(num_folds)
        ]
        held_out = [
            chosen_log_likelihood(table, weights, np.flatnonzero(fold == part))
            for part, weights in enumerate(found[l2])
        ]
        log_likelihood[l2] = float(np.concatenate(held_out).mean())
    best = max(log_likelihood, key=lambda l2: (log_likelihood[l2], l2))
    out_of_fold = ranking_figures(table, np.stack(found[best])[fold])
    table.features[...] *= spread
    return FittedWeights(
        weights=whole[best] / spread,
        l2=best,
        log_likelihood=log_likelihood,
        out_of_fold=out_of_fold,
        num_folds=num_folds,
    )


def ranking_figures(table: ChoiceTable, weights: Float[np.ndarray, "B F"]) -> dict[str, float]:
    """Returns HR@10, NDCG@10 and the mean log-probability of the targets, each example ranked by its own weights.

    A drawn column counts for the items that it stands for.
    """
    better, tied, logprob = [], [], []
    for vector in np.unique(weights, axis=0):
        rows = np.flatnonzero((weights == vector).all(axis=1))
        logprob.append(chosen_log_likelihood(table, vector, rows))
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            score = linear_scores(table, vector, some)
            own = score[np.arange(len(some)), table.chosen[some], None]
            count = np.exp(table.offset[some].astype(np.float64))
            better.append(np.rint(((score > own) * count).sum(axis=1)).astype(np.int64))
            tied.append(np.rint(((score == own) * count).sum(axis=1)).astype(np.int64))
    ranks = np.concatenate(better), np.concatenate(tied)
    figures = {label: float(rank_metric(label, *ranks).mean()) for label in ("HR@10", "NDCG@10")}
    return {**figures, "log_likelihood": float(np.concatenate(logprob).mean())}


def _spread(table: ChoiceTable) -> Float[np.ndarray, "F"]:
    """Returns each feature's standard deviation within an example, 1 where nothing differs."""
    total, count = np.zeros(table.features.shape[2]), 0.0
    for start in range(0, len(table.chosen), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        is_candidate = np.isfinite(table.offset[rows]).astype(np.float32)
        size = np.maximum(is_candidate.sum(axis=1, keepdims=True), 1)
        mean = (is_candidate[:, None] @ table.features[rows])[:, 0] / size
        squares = (is_candidate[:, None] @ np.square(table.features[rows] - mean[:, None]))[:, 0]
        total += squares.sum(axis=0)
        count += float(is_candidate.sum())
    spread = np.sqrt(total / max(count, 1))
    return np.where(spread > 1e-8, spread, 1.0)
