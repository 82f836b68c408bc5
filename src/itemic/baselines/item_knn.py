"""ItemKNN: items that the same users have (Sarwar et al., 2001; shrinkage as in Bell and Koren, 2007)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from itemic.baselines.dense import DenseRecommender
from itemic.baselines.interactions import TrainingLog, break_ties, history_matrix, top_of_each_row
from itemic.baselines.stored import join_sparse, split_sparse
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.core.ranking import Histories

__all__ = ["ItemKNN", "ItemKNNConfig"]

_BLOCK_ITEMS = 1024
"""Items whose similarities are computed at once: bounds the memory, changes no value."""


@dataclass(frozen=True, kw_only=True)
class ItemKNNConfig:
    """How items become neighbours."""

    kind: Literal["item-knn"] = "item-knn"
    num_neighbours: int = 50
    """Neighbours kept of each item. Chosen on the valid split of MovieLens-100k and Amazon Industrial."""
    shrinkage: float = 5.0
    """Added to the product of norms, in users: pulls similarities that few users support towards zero. Chosen
    likewise."""

    def __post_init__(self) -> None:
        if self.num_neighbours < 1 or self.shrinkage < 0:
            raise ConfigError(f"expected at least one neighbour and a shrinkage of at least 0, found {self}")


class ItemKNN(DenseRecommender):
    """Scores an item by the sum of its similarities to the items of the history.

        s_ij = |U_i & U_j| / (sqrt(|U_i| |U_j|) + shrinkage),   i != j, the largest of each row kept

    where U_i are the users with item i in training. Items without evidence follow by popularity.
    """

    name = "ItemKNN"

    def __init__(self, similarity: scipy.sparse.csr_array, counts: Int[np.ndarray, "N"]) -> None:
        super().__init__(len(counts))
        self.similarity = similarity
        self.counts = counts

    @classmethod
    def fit(cls, dataset: Dataset, *, seed: int, config: ItemKNNConfig | None = None) -> "ItemKNN":
        """Returns the recommender fitted to the training sequences; nothing in it is random.

        Raises:
            DataError: if there are no training interactions.
        """
        config = config or ItemKNNConfig()
        log = TrainingLog.from_dataset(dataset)
        users = log.binary_matrix()
        norm = np.sqrt(users.sum(axis=0))
        starts = range(0, log.num_items, _BLOCK_ITEMS)
        blocks = [_neighbours(users, norm, slice(start, start + _BLOCK_ITEMS), config) for start in starts]
        return cls(scipy.sparse.vstack(blocks, format="csr"), log.counts())

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns similarities and counts."""
        return {**split_sparse("similarity", self.similarity), "counts": self.counts}, {}

    @classmethod
    def restored(
        cls, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, device: str = "auto"
    ) -> "ItemKNN":
        """Returns the recommender of what ``stored`` gave."""
        return cls(join_sparse("similarity", arrays), arrays["counts"])

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns the summed similarity of every item to each history."""
        evidence = (history_matrix(histories, self.num_items, decay=1.0) @ self.similarity).toarray()
        return break_ties(evidence, self.counts)


def _neighbours(
    users: scipy.sparse.csr_array, norm: Float[np.ndarray, "N"], items: slice, config: ItemKNNConfig
) -> scipy.sparse.csr_array:
    """Returns the rows ``items`` of the similarity matrix."""
    shared = (users[:, items].T @ users).tocoo()
    row, column = shared.coords
    similarity = shared.data / (norm[items][row] * norm[column] + config.shrinkage)
    similarity[row + items.start == column] = 0.0
    block = scipy.sparse.csr_array((similarity, (row, column)), shape=shared.shape)
    block.eliminate_zeros()
    return top_of_each_row(block, config.num_neighbours)
