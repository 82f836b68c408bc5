"""Popularity: everybody gets the most frequent items of the training log."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from itemic.baselines.dense import DenseRecommender
from itemic.baselines.interactions import TrainingLog
from itemic.core.dataset import Dataset
from itemic.core.ranking import Histories

__all__ = ["Popularity", "PopularityConfig"]


@dataclass(frozen=True, kw_only=True)
class PopularityConfig:
    """Popularity has no settings."""

    kind: Literal["popularity"] = "popularity"


class Popularity(DenseRecommender):
    """Scores an item by its number of training interactions, whatever the history."""

    name = "Popularity"

    def __init__(self, counts: Int[np.ndarray, "N"]) -> None:
        super().__init__(len(counts))
        self.counts = counts

    @classmethod
    def fit(cls, dataset: Dataset, *, seed: int, config: PopularityConfig | None = None) -> "Popularity":
        """Returns the recommender fitted to the training sequences; nothing in it is random.

        Raises:
            DataError: if there are no training interactions.
        """
        return cls(TrainingLog.from_dataset(dataset).counts())

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the counts."""
        return {"counts": self.counts}, {}

    @classmethod
    def restored(
        cls, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, device: str = "auto"
    ) -> "Popularity":
        """Returns the recommender of what ``stored`` gave."""
        return cls(arrays["counts"])

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns each item's number of training interactions, for every history."""
        return np.tile(self.counts.astype(np.float64), (len(histories), 1))
