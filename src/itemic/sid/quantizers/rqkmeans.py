"""Residual k-means (RQ-KMeans): each level clusters what the levels before it left over.

Knows nothing of collisions: two vectors may well get the same codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import ConfigError
from itemic.core.progress import track
from itemic.sid.quantizers.kmeans import (
    RowSource,
    draw_rows,
    group_sums,
    kmeans,
    nearest_codes,
    renew_centroids,
)
from itemic.sid.quantizers.protocol import Quantizer, check_codebook_sizes, check_vectors, pieces
from itemic.sid.quantizers.residual import ResidualQuantizer, check_start, encode_residuals

__all__ = ["RQKMeans", "RQKMeansConfig"]


@dataclass(frozen=True, kw_only=True)
class RQKMeansConfig:
    """Settings of residual k-means."""

    kind: Literal["rqkmeans"] = "rqkmeans"
    """Names this quantizer in a recipe."""
    num_iterations: int = 5
    """k-means iterations at each number of dimensions (4, 8, 16 ... all) of each level. Default: by measurement; 10
    lower the error by about half a percent in twice the time."""
    num_refinements: int = 0
    """Rounds in which every level is fitted anew to what all the others leave, instead of only those before it. Two
    lower the error on the items learned from by about 4 %; a catalogue with few items a code then codes new items
    worse (about 2 % more error), so by default there are none."""
    max_points_per_code: int = 256
    """Vectors drawn to learn from, as a multiple of the largest codebook; 0 learns from all. Default: faiss."""

    def __post_init__(self) -> None:
        if self.num_iterations < 1:
            raise ConfigError(f"num_iterations {self.num_iterations}: expected at least 1")
        if self.num_refinements < 0 or self.max_points_per_code < 0:
            raise ConfigError(
                f"num_refinements {self.num_refinements}, max_points_per_code {self.max_points_per_code}: expected 0 "
                "or more of each"
            )


class RQKMeans(ResidualQuantizer):
    """One k-means codebook a level on the residuals: r_0 = x, c_l = argmin_k ‖r_l − e_k‖², r_{l+1} = r_l − e_{c_l}."""

    kind: ClassVar[str] = "rqkmeans"
    config_type = RQKMeansConfig

    def fit(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, *, start: Quantizer | None = None
    ) -> "RQKMeans":
        """Returns itself, with one k-means after the other fitted on the residuals.

        All levels learn from the same vectors: at most ``max_points_per_code`` times the largest codebook, drawn with
        ``rng``, which are held in memory as float32; or, where that is 0, from all, read again and again in pieces.

        With ``start`` codes keep their meaning: level by level its centroids move to the mean of what they now have
        where that lowers their code's error by more than 5 %, in at most five rounds, and those without vectors
        stay where they are. There are then no refinements, which would move them all.

        Args:
            x: What to learn from.
            rng: Of the sample and of the random starts.
            start: An RQKMeans of the same sizes.

        Raises:
            CatalogError: if there are fewer vectors than codes in a codebook, or ``start`` does not fit.
            DataError: if a vector is not finite.
        """
        check_vectors(x, self._sizes)
        if start is not None:
            check_start(self, start, x.shape[1])
        points = self.config.max_points_per_code * max(self._sizes)
        num_refinements = self.config.num_refinements if start is None else 0
        sample = draw_rows(x, points, rng) if points else x
        residuals: np.ndarray | _Residuals = _Residuals(x)
        if points:
            residuals = sample.copy() if num_refinements else sample
        codebooks: list[np.ndarray] = []
        for level, size in enumerate(track(self._sizes, "learning codebooks")):
            if level:
                _subtract_nearest(residuals, codebooks[-1])
            if start is None:
                codebooks.append(kmeans(residuals, size, self.config.num_iterations, rng))
            else:
                codebooks.append(renew_centroids(residuals, start.codebooks[level]))
        for _ in range(num_refinements):
            _refine(sample, codebooks)
        self._codebooks = tuple(codebooks)
        return self

    @classmethod
    def from_codebooks(
        cls, codebooks: Sequence[Float[np.ndarray, "_ D"]], config: RQKMeansConfig | None = None
    ) -> "RQKMeans":
        """Returns the quantizer with these codebooks, one a level.

        Raises:
            ConfigError: if there is no level, or a codebook without a code.
        """
        quantizer = cls([len(codebook) for codebook in codebooks], config)
        quantizer._codebooks = tuple(codebooks)
        return quantizer

    @classmethod
    def from_codes(
        cls, x: Float[np.ndarray, "N D"], codes: Int[np.ndarray, "N L"], codebook_sizes: Sequence[int]
    ) -> "RQKMeans":
        """Returns the quantizer that explains given codes best, level by level.

        A centroid is the mean residual of the items that carry its code; a code that nobody carries stands for no
        change at all. So SIDs made elsewhere can be decoded, measured and have their collisions resolved.
        """
        codebooks: list[np.ndarray] = []
        for level, size in enumerate(check_codebook_sizes(codebook_sizes)):
            nothing = np.zeros((size, x.shape[1]), dtype=np.float32)
            codebooks.append(_mean_leftovers(x, codes, [*codebooks, nothing], level))
        return cls.from_codebooks(codebooks)


class _Residuals:
    """What some levels leave of each vector, computed when it is read; only the codes are kept."""

    def __init__(self, x: RowSource) -> None:
        self._x = x
        self._levels: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return self._x.shape

    def __getitem__(self, rows: slice, /) -> Any:
        residual = np.array(self._x[rows], dtype=np.float32)
        for codebook, codes in self._levels:
            residual -= codebook[codes[rows]]
        return residual

    def add_level(self, codebook: Float[np.ndarray, "K D"], codes: Int[np.ndarray, "N"]) -> None:
        self._levels.append((codebook, codes))


def _subtract_nearest(residuals: np.ndarray | _Residuals, codebook: Float[np.ndarray, "K D"]) -> None:
    """Takes the nearest centroid from each residual, in place."""
    codes = nearest_codes(residuals, codebook)
    if isinstance(residuals, _Residuals):
        residuals.add_level(codebook, codes)
        return
    for rows in pieces(len(residuals), cells_a_row=codebook.shape[1]):
        residuals[rows] -= codebook[codes[rows]]


def _refine(x: RowSource, codebooks: list[np.ndarray]) -> None:
    """Codes all vectors, then moves each level's centroids to the means of what the other levels leave, in place."""
    codes = encode_residuals(x, codebooks)
    for level in range(len(codebooks)):
        codebooks[level] = _mean_leftovers(x, codes, codebooks, level)


def _mean_leftovers(
    x: RowSource, codes: Int[np.ndarray, "N L"], codebooks: Sequence[np.ndarray], level: int
) -> Float[np.ndarray, "K D"]:
    """Returns for each code of a level the mean of what the other levels' codes leave of its items.

    A code that nobody carries keeps its centroid.
    """
    size = len(codebooks[level])
    sums = np.zeros((size, x.shape[1]), dtype=np.float64)
    for rows in pieces(x.shape[0], cells_a_row=x.shape[1]):
        left = np.array(x[rows], dtype=np.float32)
        for other, codebook in enumerate(codebooks):
            if other != level:
                left -= codebook[codes[rows, other]]
        sums += group_sums(left, codes[rows, level], size)
    counts = np.bincount(codes[:, level], minlength=size)[:, None]
    return np.where(counts > 0, sums / np.maximum(counts, 1), codebooks[level]).astype(np.float32)
