"""RQ-KMeans with finite scalar quantization (FSQ) at the last level: a grid there, and no codebook to learn.

Knows nothing of collisions: two vectors may well get the same codes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import ConfigError, DataError
from itemic.sid.quantizers.kmeans import moments
from itemic.sid.quantizers.leftover import first_levels, sample_leftover
from itemic.sid.quantizers.protocol import Quantizer, pieces
from itemic.sid.quantizers.residual import ResidualQuantizer, check_start, encode_residuals, levels_named, name_levels
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig

__all__ = ["RQKMeansFSQ", "RQKMeansFSQConfig", "deal_levels", "grid_values"]

_SAMPLE_ROWS = 1 << 16
"""Most vectors that the axes are learned from."""


@dataclass(frozen=True, kw_only=True)
class RQKMeansFSQConfig:
    """Settings of residual k-means with a grid at the last level."""

    kind: Literal["rqkmeans-fsq"] = "rqkmeans-fsq"
    """Names this quantizer in a recipe."""
    grid: tuple[int, ...] = ()
    """Levels of each principal axis of what the residual levels leave, widest axis first; their product is the last
    codebook size: (8, 8, 8, 8) for 4,096. Empty: dealt out by ``deal_levels``. Default: empty, by measurement."""
    scale: float = 1.5
    """How wide the grid is, in standard deviations of each axis. Default: by measurement on text vectors; for a normal
    variable the error is within 2% of the best scalar quantizer's at 2 to 4 levels, 12% at 8 and 26% at 16."""
    kmeans: RQKMeansConfig = field(default_factory=RQKMeansConfig)
    """How the k-means of the residual levels is run."""

    def __post_init__(self) -> None:
        if any(num_levels < 2 for num_levels in self.grid) or self.scale <= 0:
            raise ConfigError(
                f"grid {self.grid}, scale {self.scale}: expected at least 2 levels an axis and a scale above 0"
            )


class RQKMeansFSQ(ResidualQuantizer):
    """Residual k-means for all levels but the last; there the rest is rounded to a grid on its principal axes.

    With z_j the coordinate of the rest on axis j, s_j its standard deviation and n_j the levels of the axis, FSQ bounds
    it by tanh(z_j / (scale s_j)) and rounds that to the centres of n_j equal parts of (−1, 1). Deviation from the
    source: it goes to the nearest value in z_j itself, not in tanh, so that ``encode`` minimises the squared error.
    The code is the mixed-radix number of the rounded coordinates, the first axis most significant.

    Nothing at the last level is learned but the axes and their spread, so it may have more codes than there are items.

    Source: Mentzer et al. (arXiv 2309.15505).
    """

    kind: ClassVar[str] = "rqkmeans-fsq"
    config_type = RQKMeansFSQConfig

    def __init__(self, codebook_sizes: Sequence[int], config: RQKMeansFSQConfig | None = None) -> None:
        """Keeps the settings; ``fit`` makes the codebooks.

        Args:
            codebook_sizes: Number of codes of each level; the last is the number of grid points.
            config: How to learn them; the defaults where there is none.

        Raises:
            ConfigError: if there is no residual level, a codebook has no code, or the grid has another number of points
                than the last level has codes.
        """
        super().__init__(codebook_sizes, config)
        self.axes: np.ndarray = np.empty((0, 0), dtype=np.float32)
        self.grid: tuple[np.ndarray, ...] = ()
        if len(self._sizes) < 2:
            raise ConfigError(f"codebook sizes {self._sizes}: expected a residual level before the grid; add a level")
        points, size = math.prod(self.config.grid), self._sizes[-1]
        if self.config.grid and points != size:
            raise ConfigError(
                f"grid {self.config.grid} has {points} points, but the last codebook size is {size}; make them equal "
                "or leave grid empty"
            )

    def fit(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, *, start: Quantizer | None = None
    ) -> "RQKMeansFSQ":
        """Returns itself, with residual levels learned from ``x`` and a grid laid over what those leave.

        With ``start`` the residual levels are renewed as those of residual k-means and its grid stays exactly as it is.

        Raises:
            CatalogError: if there are fewer vectors than codes in a residual level, or ``start`` does not fit.
            DataError: if a vector is not finite, or narrower than the grid.
        """
        if x.shape[1] < len(self.config.grid):
            raise DataError(
                f"vectors are {x.shape[1]} wide: expected at least the {len(self.config.grid)} axes of grid"
            )
        num_residual, kmeans = len(self._sizes) - 1, self.config.kmeans
        first = None
        if start is not None:
            check_start(self, start, x.shape[1])
            assert isinstance(start, RQKMeansFSQ)
            first = first_levels(start, num_residual, kmeans)
        levels = RQKMeans(self._sizes[:-1], kmeans).fit(x, rng, start=first)
        if start is not None:
            self.axes, self.grid, points = start.axes, start.grid, start.codebooks[-1]
        else:
            points = self._lay_grid(sample_leftover(x, levels, _SAMPLE_ROWS, rng))
        self._codebooks = (*levels.codebooks, points)
        return self

    def distances(self, x: Float[np.ndarray, "N D"], prefix: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N K"]:
        """Returns the squared distance from what ``prefix`` leaves of each vector to each code of level l.

        At the last level it is the sum of the squared distances on the axes and of what lies beside them.
        """
        if prefix.shape[1] < len(self._sizes) - 1:
            return super().distances(x, prefix)
        distances = np.empty((len(x), self._sizes[-1]), dtype=np.float32)
        for rows in pieces(len(x), cells_a_row=max(x.shape[1], self._sizes[-1])):
            distances[rows] = self._grid_distances(np.asarray(x[rows], dtype=np.float32) - self.decode(prefix[rows]))
        return distances

    def encode(self, x: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N L"]:
        """Returns the nearest centroid of each residual level in turn, then the nearest grid point."""
        *residual_levels, _ = self._fitted()
        codes = np.empty((len(x), len(self._sizes)), dtype=np.int64)
        for rows in pieces(len(x), cells_a_row=max(x.shape[1], *map(len, self.grid), 1)):
            part = np.asarray(x[rows], dtype=np.float32)
            codes[rows, :-1] = encode_residuals(part, residual_levels)
            leftover = part - self.decode(codes[rows, :-1])
            codes[rows, -1] = _nearest_point(leftover @ self.axes, self.grid)
        return codes

    def _arrays(self) -> dict[str, np.ndarray]:
        return {**super()._arrays(), "axes": self.axes, **name_levels("grid", self.grid)}

    def _restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self.axes = arrays["axes"]
        self.grid = levels_named("grid", arrays, self.axes.shape[1])

    def _grid_distances(self, leftover: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n K"]:
        coordinates = leftover @ self.axes
        beside = np.square(leftover).sum(axis=1) - np.square(coordinates).sum(axis=1)
        total: np.ndarray = np.maximum(beside, 0)[:, None]
        for values, coordinate in zip(self.grid, coordinates.T, strict=True):
            on_axis = np.square(coordinate[:, None] - values)
            total = (total[:, :, None] + on_axis[:, None, :]).reshape(len(leftover), -1)
        return total

    def _lay_grid(self, leftover: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "K D"]:
        """Returns the grid's points as vectors, after keeping its axes and their values."""
        variances, axes = np.linalg.eigh(moments(leftover)[1].astype(np.float32))
        variances, axes = variances[::-1], axes[:, ::-1]
        grid = self.config.grid or deal_levels(self._sizes[-1], variances)
        self.axes = np.ascontiguousarray(axes[:, : len(grid)], dtype=np.float32)
        coordinates = leftover @ self.axes
        self.grid = tuple(
            grid_values(num_levels, float(coordinate.mean()), self.config.scale * float(coordinate.std()))
            for num_levels, coordinate in zip(grid, coordinates.T, strict=True)
        )
        points: np.ndarray = _points(self.grid) @ self.axes.T
        return points


def grid_values(num_levels: int, centre: float, scale: float) -> Float[np.ndarray, "n"]:
    """Returns centre + scale · atanh((2k + 1)/n − 1) for k = 0 ... n − 1: even steps of tanh((z − centre)/scale)."""
    even_steps = (2 * np.arange(num_levels) + 1) / num_levels - 1
    values: np.ndarray = (centre + scale * np.arctanh(even_steps)).astype(np.float32)
    return values


def deal_levels(size: int, variances: Float[np.ndarray, "D"]) -> tuple[int, ...]:
    """Returns how many levels each axis gets, with ``size`` as their product.

    The prime factors of the size, largest first, multiply the levels of the axis with the largest error left,
    reckoned as variance / levels². Axes that get one level only are left out. So a wide axis gets many levels, and
    where all are alike, as in text vectors, many axes get two.

    Args:
        size: Number of grid points.
        variances: Of each axis, falling.
    """
    levels = np.ones(len(variances), dtype=np.int64)
    for factor in _prime_factors(size):
        levels[np.argmax(variances / np.square(levels))] *= factor
    return tuple(int(count) for count in levels if count > 1)


def _prime_factors(size: int) -> list[int]:
    """Returns the prime factors, largest first."""
    factors, rest = [], size
    for candidate in range(2, math.isqrt(size) + 1):
        while rest % candidate == 0:
            factors.append(candidate)
            rest //= candidate
    if rest > 1:
        factors.append(rest)
    return factors[::-1]


def _nearest_point(coordinates: Float[np.ndarray, "N d"], grid: Sequence[np.ndarray]) -> Int[np.ndarray, "N"]:
    """Returns the mixed-radix number of the nearest value on each axis."""
    code = np.zeros(len(coordinates), dtype=np.int64)
    for values, coordinate in zip(grid, coordinates.T, strict=True):
        code = code * len(values) + np.abs(coordinate[:, None] - values).argmin(axis=1)
    return code


def _points(grid: Sequence[np.ndarray]) -> Float[np.ndarray, "K d"]:
    """Returns the coordinates of every grid point, the first axis most significant."""
    if not grid:
        return np.zeros((1, 0), dtype=np.float32)
    return np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, len(grid))
