"""Where the target stands in a ranked list, as two counts: items above it and items level with it.

Knows nothing of metrics; those take the counts and give the expectation over the order of equal scores.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from itemic.core.errors import DataError
from itemic.core.ranking import Recommendations

__all__ = ["TargetRanks", "check_recommendations", "is_cut_by_tie", "target_ranks"]


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
    items, scores = recommendations.item_index, recommendations.score
    is_target = items == target[:, None]
    is_listed = is_target.any(axis=1)
    filled = items != -1
    target_score = np.where(is_target, scores, -np.inf).max(axis=1, initial=-np.inf)[:, None]
    num_better = np.where(is_listed, (filled & (scores > target_score)).sum(axis=1), filled.sum(axis=1))
    num_tied = (filled & (scores == target_score)).sum(axis=1)
    reaches_end = filled[:, -1] & (scores[:, -1:] == target_score)[:, 0]
    num_tied += np.where(reaches_end, recommendations.num_tied_beyond, 0)
    return TargetRanks(num_better=num_better, num_tied=np.where(is_listed, num_tied, 0))


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
