"""A blend: members' scores weighed together into one probability for every item; knows no files of a run.

log p(item | history) = w . features(item, history) - log sum over items of exp(w . features)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from itemic.baselines.dense import concatenate_lists
from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Histories, Recommendations, allowed_mask, check_histories, top_k
from itemic.hybrid.features import FeatureSet, Member
from itemic.hybrid.members import LanguageMember

__all__ = ["Blend", "PriorSearch", "SearchedBlend"]

_MAX_CELLS = 1 << 22
"""Scores held at once: a few arrays of 32 MiB."""

PriorSearch = Callable[[Histories, int, float, Float[np.ndarray, "B N"], Bool[np.ndarray, "B N"]], Recommendations]
"""From histories, k, the weight of log-probabilities, a prior and what is allowed to the best items of the sum."""


class Blend:
    """A ``core.ranking.Recommender`` over several others; ``exp(score)`` is an item's probability.

    Scores do not depend on filters: they take items out of the list, no more.
    """

    def __init__(
        self,
        members: Sequence[Member],
        features: FeatureSet,
        weights: Mapping[str, float],
        is_active: Bool[np.ndarray, "N"],
        name: str = "itemic blend",
    ) -> None:
        """Takes fitted members and weights.

        Args:
            members: In any order.
            features: What is made of their scores.
            weights: By the features' names.
            is_active: Items that may be recommended.
            name: Name in tables.

        Raises:
            ConfigError: if members, features and weights are not of one blend.
        """
        if sorted(member.name for member in members) != sorted(features.epsilons):
            raise ConfigError(
                f"a blend of {', '.join(features.epsilons)} got the members {', '.join(each.name for each in members)}"
            )
        if sorted(weights) != sorted(features.names):
            raise ConfigError(f"expected weights of {', '.join(features.names)}, found {', '.join(weights)}")
        self.name = name
        self.members = tuple(members)
        self.features = features
        self.weights = {name: float(weights[name]) for name in features.names}
        self.is_active = is_active

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return len(self.is_active)

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns log p(item | history) for every item, -inf for retired ones."""
        scores = {member.name: member.score(histories) for member in self.members}
        return _log_softmax(np.where(self.is_active, self._weigh(scores, histories), -np.inf))

    def recommend(
        self, histories: Histories, k: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> Recommendations:
        """Returns the ``k`` best allowed items for each history; see ``core.ranking.Recommender``."""
        check_histories(histories, self.num_items)
        allowed = allowed_mask(len(histories), self.num_items, exclude, allow)
        return self.recommend_allowed(histories, k, allowed)

    def recommend_allowed(self, histories: Histories, k: int, allowed: Bool[np.ndarray, "B N"]) -> Recommendations:
        """Returns the ``k`` best items for each history out of a mask of those allowed.

        Raises:
            DataError: if ``k`` is less than 1.
        """
        if k < 1:
            raise DataError(f"k must be at least 1, found {k}")
        step = max(1, _MAX_CELLS // self.num_items)
        allowed = allowed & self.is_active
        starts = range(0, max(1, len(histories)), step)
        parts = [self._list(histories[at : at + step], k, allowed[at : at + step]) for at in starts]
        return replace(concatenate_lists(parts), num_allowed=allowed.sum(axis=1))

    def _list(self, histories: Histories, k: int, allowed: Bool[np.ndarray, "B N"]) -> Recommendations:
        return top_k(np.where(allowed, self.score(histories), -np.inf), k)

    def _weigh(self, scores: Mapping[str, Float[np.ndarray, "B N"]], histories: Histories) -> Float[np.ndarray, "B N"]:
        total = np.zeros((len(histories), self.num_items))
        for weight, column in zip(self.weights.values(), self.features.columns(scores, histories), strict=True):
            if weight:
                total += weight * column
        return total

    def prior(self, histories: Histories, without: str) -> Float[np.ndarray, "B N"]:
        """Returns what all members but one, and histories and popularity, say of every item: the rest of the sum."""
        scores = {member.name: member.score(histories) for member in self.members if member.name != without}
        scores[without] = np.zeros((len(histories), self.num_items))
        return self._weigh(scores, histories)


class SearchedBlend(Blend):
    """The same blend with its one language model searched under the others' prior.

    An item's score is the weighted sum itself, not normalised, and exact wherever the beams reach: the floor that a
    completed list gives to unlisted items is not needed. Items that no beam reached are not listed.
    """

    def __init__(self, blend: Blend, search: PriorSearch) -> None:
        """Takes a blend with exactly one member of log-probabilities, and that model's search.

        Raises:
            ConfigError: if there is none or more than one, it is an ensemble, or its weight is not above 0.
        """
        language = [member for member in blend.members if member.is_logprob]
        if len(language) != 1 or (isinstance(language[0], LanguageMember) and len(language[0].recommenders) != 1):
            raise ConfigError("blend.search: prior needs exactly one language model among the members; use rescore")
        self._language = language[0].name
        if blend.weights[self._language] <= 0:
            raise ConfigError("blend.search: the language model's weight is not above 0; use rescore")
        super().__init__(blend.members, blend.features, blend.weights, blend.is_active, blend.name)
        self._search = search

    def _list(self, histories: Histories, k: int, allowed: Bool[np.ndarray, "B N"]) -> Recommendations:
        prior = self.prior(histories, self._language)
        return self._search(histories, k, self.weights[self._language], prior, allowed)


def _log_softmax(score: Float[np.ndarray, "B N"]) -> Float[np.ndarray, "B N"]:
    shifted = score - score.max(axis=1, keepdims=True, initial=-np.finfo(np.float64).max)
    normalised: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
