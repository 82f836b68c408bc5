"""The members of a blend: fitted baselines, and language models whose beams are completed to the whole catalogue."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from itemic.baselines.registry import Baseline
from itemic.core.errors import ConfigError
from itemic.core.ranking import Histories, Recommendations, Recommender

__all__ = ["LanguageMember", "RowMember", "complete_logprobs"]

_LEAST_REST = 1e-6
"""Probability left to all unlisted items together where the listed ones take it all, by rounding or shared IDs."""


class RowMember:
    """A fitted baseline that scores the whole catalogue."""

    is_logprob = False

    def __init__(self, name: str, baseline: Baseline) -> None:
        """Takes the baseline.

        Raises:
            ConfigError: if it makes lists but scores no catalogue.
        """
        if not hasattr(baseline, "score"):
            raise ConfigError(f"blend.members: {name} does not score the whole catalogue and cannot be a member")
        self.name = name
        self.num_parameters = baseline.num_parameters
        self._score = baseline.score

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns the baseline's scores."""
        scores: np.ndarray = self._score(histories)
        return scores


class LanguageMember:
    """One or more recommenders whose scores are log-probabilities, averaged in probability.

    Several see the same items through other semantic IDs or seeds; their mean is an ensemble.
    """

    is_logprob = True
    num_parameters = 0
    """None beside those of the models, which a dense head may read too."""

    def __init__(self, name: str, recommenders: Sequence[Recommender], num_items: int, num_beams: int) -> None:
        """Takes the models.

        Args:
            name: In features.
            recommenders: Whose lists hold log-probabilities.
            num_items: Size of the catalogue.
            num_beams: Items that each is asked for.

        Raises:
            ConfigError: if there is no recommender.
        """
        if not recommenders:
            raise ConfigError(f"{name}: expected at least one language model")
        self.name = name
        self.recommenders = tuple(recommenders)
        self._num_items = num_items
        self._num_listed = min(num_beams, num_items)

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns log mean_m p_m(item | history)."""
        parts = [
            complete_logprobs(recommender.recommend(histories, self._num_listed), self._num_items)
            for recommender in self.recommenders
        ]
        if len(parts) == 1:
            return parts[0]
        mean: np.ndarray = np.logaddexp.reduce(np.stack(parts), axis=0) - np.log(len(parts))
        return mean


def complete_logprobs(lists: Recommendations, num_items: int) -> Float[np.ndarray, "B N"]:
    """Returns a log-probability for every item: the listed ones' own, for all others the floor.

    The floor is what the listed items leave, spread evenly, and at most the least listed probability, for whatever is
    not listed is not likelier than the last that is.
    """
    num_rows = len(lists)
    logprob = np.full((num_rows, num_items), -np.inf)
    row, place = np.nonzero(lists.item_index >= 0)
    logprob[row, lists.item_index[row, place]] = lists.score[row, place]
    is_listed = np.isfinite(logprob)
    num_unlisted = np.maximum(num_items - is_listed.sum(axis=1), 1)
    rest = np.clip(1 - np.exp(logprob).sum(axis=1), _LEAST_REST, 1)
    least = np.where(is_listed, logprob, 0).min(axis=1, initial=0)
    floor = np.minimum(np.log(rest / num_unlisted), least)
    completed: np.ndarray = np.where(is_listed, logprob, floor[:, None])
    return completed
