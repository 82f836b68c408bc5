"""Balanced residual k-means: every code of a level is used about equally often, for new items by the same rule.

Each code has a price, and an item takes the code whose squared distance plus price is least (a power diagram). Knows
nothing of collisions.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from itemic.core.config import config_from_mapping
from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.progress import track
from itemic.sid.quantizers.kmeans import draw_rows, group_sums, kmeans
from itemic.sid.quantizers.prices import balancing_prices
from itemic.sid.quantizers.protocol import Quantizer, check_vectors, pieces
from itemic.sid.quantizers.residual import ResidualQuantizer, check_start, encode_residuals, squared_distances
from itemic.sid.quantizers.stored import read_quantizer, write_quantizer

__all__ = ["BalancedRQKMeans", "BalancedRQKMeansConfig"]

log = logging.getLogger("itemic")

_MOST_COSTS = 1 << 26
"""Vectors times codes whose costs are held in memory at once while prices are found: 256 MiB, twice."""

_START_ITERATIONS = 5
"""k-means iterations at each number of dimensions before balancing begins."""


@dataclass(frozen=True, kw_only=True)
class BalancedRQKMeansConfig:
    """Settings of balanced residual k-means."""

    kind: Literal["balanced-rqkmeans"] = "balanced-rqkmeans"
    """Names this quantizer in a recipe."""
    num_iterations: int = 5
    """Rounds a level of: find the prices that balance the codes, move each centroid to the mean of its vectors."""
    tolerance: float = 0.1
    """How far the number of vectors of a code may lie from the mean, as a share of it; the bounds are then rounded
    outward to whole vectors."""
    max_points_per_code: int = 256
    """Vectors drawn to learn from, as a multiple of the largest codebook, and no more than 2^26 divided by that
    codebook's size; 0 asks for the latter. Default: faiss."""

    def __post_init__(self) -> None:
        if self.num_iterations < 1 or self.max_points_per_code < 0:
            raise ConfigError(
                f"num_iterations {self.num_iterations}, max_points_per_code {self.max_points_per_code}: expected at "
                "least 1 iteration, and 0 or more points"
            )
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"tolerance {self.tolerance}: expected a share, 0 or more and below 1")


class BalancedRQKMeans(ResidualQuantizer):
    """One priced codebook a level on the residuals: c_l = argmin_k ‖r_l − e_k‖² + w_k, r_{l+1} = r_l − e_{c_l}.

    The prices w make every code of a level hold about as many of the vectors learned from. They are kept, so a new
    item is coded by the rule that coded the old ones; ``distances`` include them.
    """

    kind: ClassVar[str] = "balanced-rqkmeans"
    config_type = BalancedRQKMeansConfig

    def __init__(self, codebook_sizes: Sequence[int], config: Any = None) -> None:
        """Keeps the settings; ``fit`` makes codebooks and prices.

        Raises:
            ConfigError: if there is no level, a codebook without a code, or one too large to be balanced.
        """
        super().__init__(codebook_sizes, config)
        if max(self._sizes) ** 2 > _MOST_COSTS:
            raise ConfigError(
                f"codebook sizes {self._sizes}: balanced codes need a codebook of at most {math.isqrt(_MOST_COSTS)}; "
                "use kind rqkmeans for larger ones"
            )
        self._prices: tuple[np.ndarray, ...] = ()

    @property
    def prices(self) -> tuple[Float[np.ndarray, "_"], ...]:
        """What each code of each level costs besides its squared distance, ≥ 0; none before ``fit``."""
        return self._prices

    def fit(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, *, start: Quantizer | None = None
    ) -> "BalancedRQKMeans":
        """Returns itself, with centroids and prices found in turn, level by level.

        All levels learn from the same vectors, drawn with ``rng``. Their counts lie within ``tolerance`` of the mean,
        save where many vectors are identical (a warning then says so); those of the other vectors do as far as the
        sample is like them.

        Raises:
            CatalogError: if there are fewer vectors than codes in a codebook, or ``start`` does not fit.
            DataError: if a vector is not finite.
        """
        check_vectors(x, self._sizes)
        if start is not None:
            check_start(self, start, x.shape[1])
        most = _MOST_COSTS // max(self._sizes)
        residual = draw_rows(x, min(self.config.max_points_per_code * max(self._sizes) or most, most), rng)
        codebooks, prices = [], []
        for level, size in enumerate(track(self._sizes, "learning codebooks")):
            if isinstance(start, BalancedRQKMeans):
                begin, worth = start.codebooks[level], start.prices[level]
            else:
                begin, worth = kmeans(residual, size, _START_ITERATIONS, rng), None
            centroids, price, codes = self._balance(residual, begin, worth, level)
            codebooks.append(centroids)
            prices.append(price)
            for rows in pieces(len(residual)):
                residual[rows] -= centroids[codes[rows]]
        self._codebooks, self._prices = tuple(codebooks), tuple(prices)
        return self

    def distances(self, x: Float[np.ndarray, "N D"], prefix: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N K"]:
        """Returns the squared distance from what ``prefix`` leaves to each centroid of level l, plus its price."""
        cost = super().distances(x, prefix)
        cost += self._prices[prefix.shape[1]]
        return cost

    def encode(self, x: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N L"]:
        """Returns the code of least distance and price of each level in turn."""
        return encode_residuals(x, self._fitted(), self._prices)

    def save(self, path: Path) -> None:
        """Writes ``codebook_0``, ``price_0``, ``codebook_1`` ... as safetensors."""
        arrays = {f"codebook_{level}": codebook for level, codebook in enumerate(self._fitted())}
        arrays |= {f"price_{level}": price for level, price in enumerate(self._prices)}
        write_quantizer(path, self.config, self._sizes, arrays)

    @classmethod
    def load(cls, path: Path) -> "BalancedRQKMeans":
        """Returns the quantizer in ``path``.

        Raises:
            ArtifactError: if the file is missing, damaged or of another kind.
        """
        stored = read_quantizer(path, cls.kind)
        config = config_from_mapping(cls.config_type, stored.config, source=str(path))
        quantizer = cls(stored.codebook_sizes, config)
        levels = range(len(stored.codebook_sizes))
        try:
            quantizer._codebooks = tuple(stored.arrays[f"codebook_{level}"] for level in levels)
            quantizer._prices = tuple(stored.arrays[f"price_{level}"] for level in levels)
        except KeyError as error:
            raise ArtifactError(f"{path}: damaged quantizer: {error} is missing") from None
        return quantizer

    def _balance(
        self,
        residual: Float[np.ndarray, "N D"],
        centroids: Float[np.ndarray, "K D"],
        prices: Float[np.ndarray, "K"] | None,
        level: int,
    ) -> tuple[Float[np.ndarray, "K D"], Float[np.ndarray, "K"], Int[np.ndarray, "N"]]:
        """Returns centroids, the prices that balance them, and the codes at both."""
        num_codes = len(centroids)
        low, high = _bounds(len(residual), num_codes, self.config.tolerance)
        prices, codes = _balanced_codes(residual, centroids, prices, low, high)
        for _ in range(self.config.num_iterations):
            counts = np.bincount(codes, minlength=num_codes)[:, None]
            means = group_sums(residual, codes, num_codes) / np.maximum(counts, 1).astype(np.float32)
            centroids = np.where(counts > 0, means, centroids)
            prices, codes = _balanced_codes(residual, centroids, prices, low, high)
        counts = np.bincount(codes, minlength=num_codes)
        if counts.min() < low or counts.max() > high:
            log.warning(
                "level %d: codes hold %d to %d vectors, expected %d to %d: no price tells identical vectors apart",
                *(level, counts.min(), counts.max(), low, high),
            )
        return centroids, prices, codes


def _balanced_codes(
    x: Float[np.ndarray, "N D"],
    centroids: Float[np.ndarray, "K D"],
    prices: Float[np.ndarray, "K"] | None,
    low: int,
    high: int,
) -> tuple[Float[np.ndarray, "K"], Int[np.ndarray, "N"]]:
    """Returns the prices that balance the centroids, found from earlier ones, and the codes at them."""
    cost = np.empty((len(x), len(centroids)), dtype=np.float32)
    for rows in pieces(len(x)):
        cost[rows] = squared_distances(x[rows], centroids)
    prices = balancing_prices(cost, low, high, start=prices)
    cost += prices
    return prices, cost.argmin(axis=1)


def _bounds(num_rows: int, num_codes: int, tolerance: float) -> tuple[int, int]:
    mean = num_rows / num_codes
    return math.floor(mean * (1 - tolerance)), math.ceil(mean * (1 + tolerance))
