"""Text similarity alone: items whose text is like that of the history; knows no interactions of others.

score_j = cosine(history, j), the history's text being the mean of its items' unit vectors, decay ** age each
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from itemic.baselines.dense import DenseRecommender
from itemic.baselines.interactions import history_matrix
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Histories

__all__ = ["TextKNN", "TextKNNConfig"]


@dataclass(frozen=True, kw_only=True)
class TextKNNConfig:
    """How a history's text is made."""

    kind: Literal["text-knn"] = "text-knn"
    decay: float = 0.7
    """Weight of a history item's text per step back; that of the co-visits."""

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ConfigError(f"expected a decay above 0 and at most 1, found {self.decay}")


class TextKNN(DenseRecommender):
    """Scores an item by the cosine between its text and the history's; reaches items that nobody had in training."""

    name = "Text KNN"
    given = frozenset({"vectors"})

    def __init__(self, vectors: Float[np.ndarray, "N D"], decay: float) -> None:
        """Takes unit vectors."""
        super().__init__(len(vectors))
        self.vectors = vectors
        self.decay = decay

    @classmethod
    def fit(
        cls, dataset: Dataset, vectors: Float[np.ndarray, "N D"], *, seed: int, config: TextKNNConfig | None = None
    ) -> "TextKNN":
        """Returns the recommender; nothing is learned and nothing in it is random.

        Args:
            dataset: Only its catalogue is looked at.
            vectors: Text vectors of the items, of any length.
            seed: Not used.
            config: Decay.

        Raises:
            DataError: if there is not one vector an item.
        """
        if len(vectors) != dataset.num_items:
            raise DataError(f"{len(vectors)} text vectors for {dataset.num_items} items")
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        return cls((vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32), (config or TextKNNConfig()).decay)

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the vectors and the decay."""
        return {"vectors": self.vectors}, {"decay": self.decay}

    @classmethod
    def restored(
        cls, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, device: str = "auto"
    ) -> "TextKNN":
        """Returns the recommender of what ``stored`` gave."""
        return cls(arrays["vectors"], values["decay"])

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns the cosines; 0 after an empty history."""
        mean = history_matrix(histories, self.num_items, self.decay) @ self.vectors
        lengths = np.linalg.norm(mean, axis=1, keepdims=True)
        cosine: np.ndarray = (mean / np.where(lengths > 0, lengths, 1)) @ self.vectors.T
        return cosine
