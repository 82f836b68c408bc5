"""Balanced residual k-means: every code of a level is used about equally often, for new items by the same rule.

Each code has a price, and an item takes the code whose squared distance plus price is least (a power diagram). Knows
nothing of collisions.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import ConfigError
from itemic.core.progress import track
from itemic.sid.quantizers.candidate_prices import ascend_prices
from itemic.sid.quantizers.kmeans import cluster_sums, draw_rows, kmeans
from itemic.sid.quantizers.prices import balancing_prices, nearby_prices
from itemic.sid.quantizers.protocol import Quantizer, check_vectors, pieces
from itemic.sid.quantizers.residual import (
    ResidualQuantizer,
    check_start,
    encode_residuals,
    levels_named,
    name_levels,
    squared_distances,
)

__all__ = ["BalancedRQKMeans", "BalancedRQKMeansConfig"]

log = logging.getLogger("itemic")

_MOST_COSTS = 1 << 26
"""Vectors times codes whose costs are held in memory at once while prices are found: 256 MiB, twice."""

_MOST_EXACT = 256
"""Codes of a level up to which prices are found by Newton's method, whose every step costs vectors times codes²."""

_LEAST_POINTS = 64
"""Vectors a code that are learned from even where that exceeds _MOST_COSTS."""

_START_ITERATIONS = 5
"""k-means iterations at each number of dimensions before balancing begins."""


_MOST_RENEWALS = 5
"""Most rounds of a refit. Default: as residual k-means."""


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
    """Vectors drawn for each level, as a multiple of its codebook, but no more than 2^26 divided by the codebook's size
    or 64 a code, whichever is more; 0 asks for that many. Default: faiss."""

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
            ConfigError: if there is no level, or a codebook without a code.
        """
        super().__init__(codebook_sizes, config)
        self._prices: tuple[np.ndarray, ...] = ()

    @property
    def prices(self) -> tuple[Float[np.ndarray, "_"], ...]:
        """What each code of each level costs besides its squared distance, ≥ 0; none before ``fit``."""
        return self._prices

    def fit(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, *, start: Quantizer | None = None
    ) -> "BalancedRQKMeans":
        """Returns itself, with centroids and prices found in turn, level by level.

        One sample is drawn with ``rng``, and each level learns from as many of it as it needs. Their counts lie within
        ``tolerance`` of the mean; a warning says where they do not, and why. Those of the other vectors do as far as
        the sample is like them.

        With ``start`` a centroid moves to the mean of its vectors only where that lowers its code's error by more than
        5 %, and prices change only where a code is out of bounds.

        Raises:
            CatalogError: if there are fewer vectors than codes in a codebook, or ``start`` does not fit.
            DataError: if a vector is not finite.
        """
        check_vectors(x, self._sizes)
        if start is not None:
            check_start(self, start, x.shape[1])
        residual = draw_rows(x, max(map(self._num_points, self._sizes)), rng)
        codebooks: list[np.ndarray] = []
        prices: list[np.ndarray] = []
        for level, size in enumerate(track(self._sizes, "learning codebooks")):
            if level:
                _subtract_coded(residual, codebooks[-1], prices[-1])
            points = self._num_points(size)
            learned = draw_rows(residual, points, rng) if points < len(residual) else residual
            if isinstance(start, BalancedRQKMeans):
                solution = _renew(learned, start.codebooks[level], start.prices[level], self.config.tolerance)
            else:
                centroids = kmeans(learned, size, _START_ITERATIONS, rng)
                solution = _balance(learned, centroids, self.config.num_iterations, self.config.tolerance)
            _warn_of_bounds(learned, solution.codes, size, self.config.tolerance, level)
            codebooks.append(solution.centroids)
            prices.append(solution.prices)
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

    def _arrays(self) -> dict[str, np.ndarray]:
        return {**super()._arrays(), **name_levels("price", self._prices)}

    def _restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self._prices = levels_named("price", arrays, len(self._sizes))

    def _num_points(self, num_codes: int) -> int:
        """Returns how many vectors a level is learned from at most."""
        most = max(_MOST_COSTS // num_codes, _LEAST_POINTS * num_codes)
        return min(int(self.config.max_points_per_code) * num_codes or most, most)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Priced:
    """One level: its codes, what they cost, and which vectors have them."""

    centroids: Float[np.ndarray, "K D"]
    prices: Float[np.ndarray, "K"]
    codes: Int[np.ndarray, "N"]


class _Costs:
    """Squared distances of vectors to centroids, computed when they are read."""

    def __init__(self, x: Float[np.ndarray, "N D"], centroids: Float[np.ndarray, "K D"]) -> None:
        self._x, self._centroids = x, centroids

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._x), len(self._centroids)

    def __getitem__(self, rows: slice, /) -> Any:
        return squared_distances(self._x[rows], self._centroids)


def _balance(
    x: Float[np.ndarray, "N D"], centroids: Float[np.ndarray, "K D"], num_iterations: int, tolerance: float
) -> _Priced:
    """Returns centroids, the prices that balance them, and the codes at both, found in alternation."""
    low, high = _bounds(len(x), len(centroids), tolerance)
    solution = _priced(x, centroids, None, low, high)
    for _ in range(num_iterations):
        means = cluster_sums(x, solution.codes, len(centroids)).means(solution.centroids)
        solution = _priced(x, means, solution.prices, low, high)
    return solution


def _renew(
    x: Float[np.ndarray, "N D"], centroids: Float[np.ndarray, "K D"], prices: Float[np.ndarray, "K"], tolerance: float
) -> _Priced:
    """Returns what ``_balance`` does, as near as may be to centroids and prices of an earlier fit."""
    low, high = _bounds(len(x), len(centroids), tolerance)
    codes = encode_residuals(x, [centroids], [prices])[:, 0]
    solution = None
    for _ in range(_MOST_RENEWALS):
        moved = cluster_sums(x, codes, len(centroids)).worthwhile_means(centroids)
        if solution is not None and np.array_equal(moved, centroids):
            break
        solution = _priced_nearby(x, moved, prices, low, high)
        centroids, prices, codes = solution.centroids, solution.prices, solution.codes
    assert solution is not None
    return solution


def _priced_nearby(
    x: Float[np.ndarray, "N D"],
    centroids: Float[np.ndarray, "K D"],
    prices: Float[np.ndarray, "K"],
    low: int,
    high: int,
) -> _Priced:
    """Returns what ``_priced`` does, with as few prices changed as may be."""
    if len(centroids) <= _MOST_EXACT:
        cost = _all_costs(x, centroids)
        near = nearby_prices(cost, prices, low, high)
        cost += near
        codes = cost.argmin(axis=1)
        if _within(np.bincount(codes, minlength=len(centroids)), low, high):
            return _Priced(centroids=centroids, prices=near, codes=codes)
    return _priced(x, centroids, prices, low, high)


def _priced(
    x: Float[np.ndarray, "N D"],
    centroids: Float[np.ndarray, "K D"],
    prices: Float[np.ndarray, "K"] | None,
    low: int,
    high: int,
) -> _Priced:
    """Returns the prices that balance the centroids, found from earlier ones, and the codes at them."""
    if len(centroids) > _MOST_EXACT:
        prices, codes = ascend_prices(_Costs(x, centroids), low, high, start=prices)
        return _Priced(centroids=centroids, prices=prices, codes=codes)
    cost = _all_costs(x, centroids)
    prices = balancing_prices(cost, low, high, start=prices)
    cost += prices
    return _Priced(centroids=centroids, prices=prices, codes=cost.argmin(axis=1))


def _all_costs(x: Float[np.ndarray, "N D"], centroids: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "N K"]:
    cost = np.empty((len(x), len(centroids)), dtype=np.float32)
    for rows in pieces(len(x), cells_a_row=max(centroids.shape)):
        cost[rows] = squared_distances(x[rows], centroids)
    return cost


def _subtract_coded(
    residual: Float[np.ndarray, "N D"], centroids: Float[np.ndarray, "K D"], prices: Float[np.ndarray, "K"]
) -> None:
    """Takes the centroid of its code from each vector, in place."""
    codes = encode_residuals(residual, [centroids], [prices])[:, 0]
    for rows in pieces(len(residual), cells_a_row=centroids.shape[1]):
        residual[rows] -= centroids[codes[rows]]


def _warn_of_bounds(
    x: Float[np.ndarray, "N D"], codes: Int[np.ndarray, "N"], num_codes: int, tolerance: float, level: int
) -> None:
    """Logs a warning where a code holds too many or too few vectors: identical ones, or prices not found."""
    low, high = _bounds(len(x), num_codes, tolerance)
    counts = np.bincount(codes, minlength=num_codes)
    if _within(counts, low, high):
        return
    # Beside codes too full by identical vectors others may be too empty; without such, the search is to blame.
    fullest = x[codes == counts.argmax()]
    num_distinct = len(np.unique(fullest, axis=0))
    reason = (
        f"no price tells identical vectors apart, and the fullest code's {len(fullest)} are {num_distinct} distinct"
        if num_distinct < len(fullest) and counts.max() > high
        else "the search for prices ended before all were found; raise tolerance or use a smaller codebook"
    )
    log.warning(
        "level %d: codes hold %d to %d vectors, expected %d to %d: %s",
        *(level, counts.min(), counts.max(), low, high, reason),
    )


def _bounds(num_rows: int, num_codes: int, tolerance: float) -> tuple[int, int]:
    mean = num_rows / num_codes
    return math.floor(mean * (1 - tolerance)), math.ceil(mean * (1 + tolerance))


def _within(counts: Int[np.ndarray, "K"], low: int, high: int) -> bool:
    return bool(counts.min() >= low and counts.max() <= high)
