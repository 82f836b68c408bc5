"""Residual k-means (RQ-KMeans): each level clusters what the levels before it left over.

Knows nothing of collisions: two vectors may well get the same codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import ConfigError
from itemic.core.progress import track
from itemic.sid.quantizers.kmeans import kmeans
from itemic.sid.quantizers.protocol import Quantizer, check_vectors
from itemic.sid.quantizers.residual import ResidualQuantizer, squared_distances

__all__ = ["RQKMeans", "RQKMeansConfig"]


@dataclass(frozen=True, kw_only=True)
class RQKMeansConfig:
    """Settings of residual k-means."""

    kind: Literal["rqkmeans"] = "rqkmeans"
    """Names this quantizer in a recipe."""
    num_iterations: int = 25
    """k-means iterations a level. Default: faiss."""
    num_restarts: int = 5
    """k-means runs a level, of which the one with the least error is kept. Default: by measurement, with 1 some seeds
    leave a level nearly unused."""

    def __post_init__(self) -> None:
        if self.num_iterations < 1 or self.num_restarts < 1:
            raise ConfigError(
                f"num_iterations {self.num_iterations}, num_restarts {self.num_restarts}: expected at least 1 of each"
            )


class RQKMeans(ResidualQuantizer):
    """One k-means codebook a level on the residuals: r_0 = x, c_l = argmin_k ‖r_l − e_k‖², r_{l+1} = r_l − e_{c_l}."""

    kind: ClassVar[str] = "rqkmeans"
    config_type = RQKMeansConfig

    def fit(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, *, start: Quantizer | None = None
    ) -> "RQKMeans":
        """Returns itself, with one k-means after the other fitted on the residuals.

        Like faiss, each k-means learns from at most 256 vectors a code, drawn with ``rng``; every vector is coded.

        Raises:
            CatalogError: if there are fewer vectors than codes in a codebook, or ``start`` does not fit.
            DataError: if a vector is not finite.
        """
        check_vectors(x, self._sizes)
        residual = np.array(x, dtype=np.float32)
        codebooks = []
        for size in track(self._sizes, "learning codebooks"):
            seed = int(rng.integers(2**31))
            centroids = kmeans(residual, size, self.config.num_iterations, self.config.num_restarts, seed=seed)
            codebooks.append(centroids)
            residual -= centroids[squared_distances(residual, centroids).argmin(axis=1)]
        self._codebooks = tuple(codebooks)
        return self

    @classmethod
    def from_codes(
        cls, x: Float[np.ndarray, "N D"], codes: Int[np.ndarray, "N L"], codebook_sizes: Sequence[int]
    ) -> "RQKMeans":
        """Returns the quantizer that explains given codes best, level by level.

        A centroid is the mean residual of the items that carry its code; a code that nobody carries stands for no
        change at all. So SIDs made elsewhere can be decoded, measured and have their collisions resolved.
        """
        quantizer = cls(codebook_sizes)
        residual = np.array(x, dtype=np.float32)
        codebooks = []
        for level, size in enumerate(quantizer._sizes):
            sums = np.zeros((size, x.shape[1]), dtype=np.float32)
            np.add.at(sums, codes[:, level], residual)
            counts = np.bincount(codes[:, level], minlength=size)
            centroids = sums / np.maximum(counts, 1)[:, None].astype(np.float32)
            codebooks.append(centroids)
            residual -= centroids[codes[:, level]]
        quantizer._codebooks = tuple(codebooks)
        return quantizer
