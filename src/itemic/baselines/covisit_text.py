"""Sequential co-visit KNN plus text similarity: no learning, and the line that every trained model has to pass.

score_j = co-visits_j(history) + text_weight * cosine(history, j)

The history's text is the mean of its items' vectors, decay ** age each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from itemic.baselines.covisit_knn import CovisitKNN, CovisitKNNConfig
from itemic.baselines.dense import DenseRecommender
from itemic.baselines.text_knn import TextKNN, TextKNNConfig
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.core.ranking import Histories

__all__ = ["CovisitText", "CovisitTextConfig"]


@dataclass(frozen=True, kw_only=True)
class CovisitTextConfig:
    """Weights of the two parts."""

    kind: Literal["covisit-text"] = "covisit-text"
    covisits: CovisitKNNConfig = field(default_factory=CovisitKNNConfig)
    """The first part."""
    text_weight: float = 1.0
    """Weight of the cosine beside the co-visits. Chosen on the valid split of Amazon Industrial."""
    text_decay: float = 0.7
    """Weight of a history item's text per step back; that of the co-visits."""

    def __post_init__(self) -> None:
        if self.text_weight < 0 or not 0 < self.text_decay <= 1:
            raise ConfigError(
                f"expected a text_weight of at least 0 and a text_decay above 0 and at most 1, found {self}"
            )


class CovisitText(DenseRecommender):
    """The sum of decayed co-visits and decayed text similarity; reaches items that nobody had in training."""

    name = "Co-visit KNN + text"
    given = frozenset({"counts", "vectors"})

    def __init__(self, covisits: CovisitKNN, text: TextKNN, text_weight: float) -> None:
        super().__init__(text.num_items)
        self.covisits = covisits
        self.text = text
        self.text_weight = text_weight

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        vectors: Float[np.ndarray, "N D"],
        *,
        seed: int,
        config: CovisitTextConfig | None = None,
    ) -> "CovisitText":
        """Returns the recommender fitted to the training sequences; nothing in it is random.

        Args:
            dataset: Its training sequences are counted.
            vectors: Text vectors of the items, of any length.
            seed: Not used.
            config: Weights.

        Raises:
            DataError: if there are no training interactions, or not one vector an item.
        """
        config = config or CovisitTextConfig()
        text = TextKNN.fit(dataset, vectors, seed=seed, config=TextKNNConfig(decay=config.text_decay))
        covisits = CovisitKNN.fit(dataset, seed=seed, config=config.covisits)
        return cls(covisits, text, config.text_weight)

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the co-visits' arrays, the vectors and the weights."""
        arrays, values = self.covisits.stored()
        weights = {"text_weight": self.text_weight, "text_decay": self.text.decay}
        return {**arrays, "vectors": self.text.vectors}, {**values, **weights}

    @classmethod
    def restored(
        cls, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, device: str = "auto"
    ) -> "CovisitText":
        """Returns the recommender of what ``stored`` gave."""
        covisits = CovisitKNN.restored(arrays, values)
        return cls(covisits, TextKNN(arrays["vectors"], values["text_decay"]), values["text_weight"])

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns co-visits plus weighted cosines; an empty history has no text and scores by popularity alone."""
        summed: np.ndarray = self.covisits.score(histories) + self.text_weight * self.text.score(histories)
        return summed
