"""The base of every baseline that scores the whole catalogue: batching, filters and ranking in one place.

Knows no scoring rule; a baseline adds ``fit`` and ``score``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.core.ranking import Histories, Recommendations, check_histories, top_k

__all__ = ["DenseRecommender"]

_MAX_CELLS = 1 << 23
"""Scores held at once: 64 MiB."""


class DenseRecommender(ABC):
    """A ``core.ranking.Recommender`` that scores every item for every history."""

    name: str
    """Name in tables."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    @classmethod
    @abstractmethod
    def fit(cls, dataset: Dataset, *, seed: int) -> "DenseRecommender":
        """Returns the recommender fitted to the dataset's training sequences; valid serves choices only."""

    @abstractmethod
    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns a finite score for every item; the histories hold catalogue items only and may be empty."""

    def recommend(
        self, histories: Histories, k: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> Recommendations:
        """Returns the ``k`` best allowed items for each history; equal scores are listed by item index.

        Args:
            histories: B histories, oldest item first.
            k: Length of each list, at least 1.
            exclude: For each user items that must not appear.
            allow: For each user the only items that may appear; None allows the whole catalogue.

        Raises:
            DataError: if an item index is not in the catalogue, a filter has not one list a history, or k is below 1.
        """
        check_histories(histories, self.num_items)
        for what, lists in (("exclude", exclude), ("allow", allow)):
            if lists is not None and len(lists) != len(histories):
                raise DataError(f"{what} has {len(lists)} lists for {len(histories)} histories")
        step = max(1, _MAX_CELLS // self.num_items)
        parts = []
        for start in range(0, max(1, len(histories)), step):
            rows = slice(start, start + step)
            scores = self.score(histories[rows])
            parts.append(top_k(scores, k, exclude and exclude[rows], allow and allow[rows]))
        return _concatenate(parts)


def _concatenate(parts: Sequence[Recommendations]) -> Recommendations:
    return Recommendations(
        item_index=np.concatenate([part.item_index for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        num_tied_beyond=np.concatenate([part.num_tied_beyond for part in parts]),
    )
