"""Repeat-last: what the user had last comes back first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from itemic.baselines.dense import DenseRecommender
from itemic.baselines.interactions import TrainingLog, history_ages
from itemic.core.dataset import Dataset
from itemic.core.ranking import Histories

__all__ = ["RepeatLast", "RepeatLastConfig"]


@dataclass(frozen=True, kw_only=True)
class RepeatLastConfig:
    """Repeat-last has no settings."""

    kind: Literal["repeat-last"] = "repeat-last"


class RepeatLast(DenseRecommender):
    """Lists the history, most recent first, then everything else by popularity.

    Where seen items are excluded it is popularity: the floor under every model on data without repeats.
    """

    name = "Repeat last"

    def __init__(self, counts: Int[np.ndarray, "N"]) -> None:
        super().__init__(len(counts))
        self.counts = counts

    @classmethod
    def fit(cls, dataset: Dataset, *, seed: int, config: RepeatLastConfig | None = None) -> "RepeatLast":
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
    ) -> "RepeatLast":
        """Returns the recommender of what ``stored`` gave."""
        return cls(arrays["counts"])

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns 1 + 1 / (1 + age) for the items of a history and a popularity below 1 for the others."""
        popularity = self.counts / (self.counts.sum() + 1)
        scores = np.tile(popularity, (len(histories), 1))
        row, item, age = history_ages(histories, self.num_items)
        scores[row, item] = 1 + 1 / (1 + age)
        return scores
