"""EASE: a linear item-item model with a closed form (Steck, "Embarrassingly Shallow Autoencoders", 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from itemic.baselines.dense import DenseRecommender
from itemic.baselines.interactions import TrainingLog, break_ties, history_matrix
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Histories

__all__ = ["EASE", "EASEConfig"]

_MAX_ITEMS = 30_000
"""Largest catalogue: the one dense N x N matrix of float64, takes 7.2 GB there. It is
made from a sparse one of 12 bytes a pair of items with a common user, 10.8 GB at most, and inverted in place."""


@dataclass(frozen=True, kw_only=True)
class EASEConfig:
    """Regularisation and input of EASE."""

    kind: Literal["ease"] = "ease"
    l2: float = 400.0
    """Weight of the squared norm of the item-item matrix, in users. Chosen on the valid split of MovieLens-100k and
    Amazon Industrial."""
    decay: float = 0.85
    """Weight of a history item per step back; 1 is the paper's binary input. Chosen likewise."""

    def __post_init__(self) -> None:
        if self.l2 <= 0 or not 0 < self.decay <= 1:
            raise ConfigError(f"expected l2 above 0 and a decay above 0 and at most 1, found {self}")


class EASE(DenseRecommender):
    """Scores an item by a weighted sum over the history, with the weights that best rebuild the training matrix X.

        min over B of |X - X B|^2 + l2 |B|^2,  diag(B) = 0;   P = (X'X + l2 I)^-1,   B_ij = -P_ij / P_jj,  i != j

    Deviation from the paper: at recommendation a history item counts decay ** age rather than 1, since what is next
    depends on what was last. X stays binary.
    """

    name = "EASE"

    def __init__(self, weights: Float[np.ndarray, "N N"], counts: Int[np.ndarray, "N"], decay: float) -> None:
        super().__init__(len(counts))
        self.weights = weights
        self.counts = counts
        self.decay = decay

    @classmethod
    def fit(cls, dataset: Dataset, *, seed: int, config: EASEConfig | None = None) -> "EASE":
        """Returns the recommender fitted to the training sequences; nothing in it is random.

        Raises:
            DataError: if there are no training interactions, or so many items that the dense matrix is out of reach.
        """
        config = config or EASEConfig()
        log = TrainingLog.from_dataset(dataset)
        if log.num_items > _MAX_ITEMS:
            raise DataError(f"EASE inverts an N x N matrix: {log.num_items} items are more than its {_MAX_ITEMS}")
        users = log.binary_matrix()
        weights = (users.T @ users).toarray(order="C")
        weights[np.diag_indices_from(weights)] += config.l2
        _invert_positive(weights)
        weights /= -np.diag(weights)
        np.fill_diagonal(weights, 0.0)
        return cls(weights, log.counts(), config.decay)

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns weights and counts, and the decay."""
        return {"weights": self.weights, "counts": self.counts}, {"decay": self.decay}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, device: str = "auto") -> "EASE":
        """Returns the recommender of what ``stored`` gave."""
        return cls(arrays["weights"], arrays["counts"], values["decay"])

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns the weighted sum for every item."""
        return break_ties(history_matrix(histories, self.num_items, self.decay) @ self.weights, self.counts)


def _invert_positive(matrix: Float[np.ndarray, "N N"]) -> None:
    """Turns a symmetric positive definite matrix into its inverse, in place: Cholesky, half the work of a general one.

    LAPACK works on columns. The transpose of a C-ordered matrix is what it wants without a copy, and the same matrix;
    its lower triangle, which LAPACK leaves filled, is the upper one here.

    Args:
        matrix: C-ordered float64.

    Raises:
        DataError: if it is not positive definite to machine precision.
    """
    factor, failed = scipy.linalg.lapack.dpotrf(matrix.T, lower=True, overwrite_a=True)
    if failed:
        raise DataError(f"EASE: the item-item matrix of {len(matrix)} items cannot be inverted; make l2 larger")
    inverse, failed = scipy.linalg.lapack.dpotri(factor, lower=True, overwrite_c=True)
    assert not failed, "a factor that was found has an inverse"
    assert np.shares_memory(inverse, matrix), "expected a C-ordered float64 matrix"
    for row in range(1, len(matrix)):
        matrix[row, :row] = matrix[:row, row]
