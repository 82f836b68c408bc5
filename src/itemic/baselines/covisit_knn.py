"""Sequential co-visit KNN: items that come shortly after one another, most of all after what was last.

No paper: the common strong baseline of session recommendation contests, here with the settings of
``docs/evaluation.md``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from itemic.baselines.dense import DenseRecommender
from itemic.baselines.interactions import TrainingLog, break_ties, count_covisits, history_matrix
from itemic.baselines.stored import join_sparse, split_sparse
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.core.ranking import Histories

__all__ = ["CovisitKNN", "CovisitKNNConfig"]


@dataclass(frozen=True, kw_only=True)
class CovisitKNNConfig:
    """How pairs of a sequence count."""

    kind: Literal["covisit-knn"] = "covisit-knn"
    max_distance: int = 5
    """Furthest steps apart at which two items of a sequence are a pair."""
    backward_weight: float = 0.5
    """Weight of a pair against its order in time, beside 1 along it."""
    source_damping: float = 0.5
    """Power of the history item's training count that its pairs are divided by: 0 lets frequent items speak louder,
    1 gives every history item one voice. Chosen on the valid split of MovieLens-100k and Amazon Industrial."""
    target_damping: float = 0.25
    """The same of the recommended item: 0 favours what is popular, 1 what is rare. Chosen likewise."""
    decay: float = 0.7
    """Weight of a history item per step back."""

    def __post_init__(self) -> None:
        weights = (self.backward_weight, self.source_damping, self.target_damping)
        if self.max_distance < 1 or min(weights) < 0 or not 0 < self.decay <= 1:
            raise ConfigError(
                "expected max_distance of at least 1, weights and dampings of at least 0 and a decay above 0 and at "
                f"most 1, found {self}"
            )


class CovisitKNN(DenseRecommender):
    """Scores an item by its decayed co-visits with the items of the history.

        m_ij = sum over pairs of i at p and j at q of one user, 0 < |q - p| <= max_distance, of w / |q - p|,
               w = 1 where q > p, backward_weight where q < p;
        score_j = sum over history items i of decay ** age_i * m_ij / (c_i ** source_damping * c_j ** target_damping)

    with c the training counts. Items without evidence follow by popularity.
    """

    name = "Co-visit KNN"

    def __init__(self, covisits: scipy.sparse.csr_array, counts: Int[np.ndarray, "N"], decay: float) -> None:
        super().__init__(len(counts))
        self.covisits = covisits
        self.counts = counts
        self.decay = decay

    @classmethod
    def fit(cls, dataset: Dataset, *, seed: int, config: CovisitKNNConfig | None = None) -> "CovisitKNN":
        """Returns the recommender fitted to the training sequences; nothing in it is random.

        Raises:
            DataError: if there are no training interactions.
        """
        config = config or CovisitKNNConfig()
        log = TrainingLog.from_dataset(dataset)
        counts = log.counts()
        covisits = count_covisits(log, config.max_distance, config.backward_weight).tocoo()
        source, target = covisits.coords
        damped = covisits.data / (counts[source] ** config.source_damping * counts[target] ** config.target_damping)
        return cls(scipy.sparse.csr_array((damped, (source, target)), shape=covisits.shape), counts, config.decay)

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns co-visits and counts, and the decay."""
        return {**split_sparse("covisits", self.covisits), "counts": self.counts}, {"decay": self.decay}

    @classmethod
    def restored(
        cls, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, device: str = "auto"
    ) -> "CovisitKNN":
        """Returns the recommender of what ``stored`` gave."""
        return cls(join_sparse("covisits", arrays), arrays["counts"], values["decay"])

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns the decayed co-visits of every item with each history."""
        evidence = (history_matrix(histories, self.num_items, self.decay) @ self.covisits).toarray()
        return break_ties(evidence, self.counts)
