"""Where the target stands in a ranked list, as two counts: items above it and items level with it.

Knows nothing of metrics; those take the counts and give the expectation over the order of equal scores.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from itemic.core.errors import DataError
from itemic.core.ranking import Recommendations

__all__ = ["TargetRanks", "check_recommendations", "is_cut_by_tie", "ranks_at", "target_ranks", "target_scores"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetRanks:
    """The rank of each target as far as a list of k items tells it."""

    num_better: Int[np.ndarray, "B"]
    """Items listed with a higher score; where the target is not listed, all items listed."""
    num_tied: Int[np.ndarray, "B"]
    """Size of the target's tie group, itself and the ties beyond the list included; 0 where it is not listed."""


def target_ranks(recommendations: Recommendations, target: Int[np.ndarray, "B"]) -> TargetRanks:
    """Returns the counts for one target a user.

    A target that is not listed may still be level with the last item listed: ``is_cut_by_tie`` says where a longer
    list has to decide.

    Args:
        recommendations: Ranked lists.
        target: Item index of the held-out item of each user.
    """
    is_listed = (recommendations.item_index == target[:, None]).any(axis=1)
    at_target = ranks_at(recommendations, target_scores(recommendations, target))
    num_listed = (recommendations.item_index != -1).sum(axis=1)
    return TargetRanks(
        num_better=np.where(is_listed, at_target.num_better, num_listed),
        num_tied=np.where(is_listed, at_target.num_tied, 0),
    )


def target_scores(recommendations: Recommendations, target: Int[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
    """Returns the score of each target, -inf where it is not listed."""
    is_target = recommendations.item_index == target[:, None]
    scores: np.ndarray = np.where(is_target, recommendations.score, -np.inf).max(axis=1, initial=-np.inf)
    return scores


def ranks_at(recommendations: Recommendations, score: Float[np.ndarray, "B"]) -> TargetRanks:
    """Returns the counts for an item with that score, which is one of the list's or level with its last.

    Args:
        recommendations: Ranked lists.
        score: One for each user.
    """
    filled = recommendations.item_index != -1
    level = filled & (recommendations.score == score[:, None])
    return TargetRanks(
        num_better=(filled & (recommendations.score > score[:, None])).sum(axis=1),
        num_tied=level.sum(axis=1) + np.where(level[:, -1], recommendations.num_tied_beyond, 0),
    )


def is_cut_by_tie(recommendations: Recommendations, ranks: TargetRanks) -> Bool[np.ndarray, "B"]:
    """Returns where a list ends inside a tie and its target is not listed, so that it may be in the part cut off."""
    is_cut: np.ndarray = (ranks.num_tied == 0) & (recommendations.num_tied_beyond > 0)
    return is_cut


def check_recommendations(recommendations: Recommendations, num_users: int, k: int, name: str) -> None:
    """Checks that a recommender kept to its contract, so that no metric is computed from a malformed list.

    Raises:
        DataError: naming the recommender, the row and what is wrong: the shape, a score that rises or is no number,
            or an item after an empty slot.
    """
    items, scores = recommendations.item_index, recommendations.score
    shapes = (items.shape, scores.shape, recommendations.num_tied_beyond.shape)
    if shapes != ((num_users, k), (num_users, k), (num_users,)):
        raise DataError(f"{name}: expected lists of shape {(num_users, k)}, found {shapes}")
    empty = items == -1
    problems = (
        ("a score that is no number", np.isnan(scores).any(axis=1)),
        ("an item after an empty slot", (empty[:, :-1] & ~empty[:, 1:]).any(axis=1)),
        ("a score that rises along the list", (scores[:, :-1] < scores[:, 1:]).any(axis=1)),
    )
    for problem, rows in problems:
        if rows.any():
            raise DataError(f"{name}: row {int(rows.argmax())} has {problem}")
