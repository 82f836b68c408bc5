"""Prices that balance many codes: found on the few cheapest codes of each row, then checked against all.

Knows nothing of levels or residuals.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from itemic.sid.quantizers.kmeans import RowSource
from itemic.sid.quantizers.prices import price_between
from itemic.sid.quantizers.protocol import pieces

__all__ = ["ascend_prices"]

_NUM_CANDIDATES = 64
"""Cheapest codes of each row that are looked at between two readings of all costs."""

_MOST_READINGS = 8
"""How often all costs are read."""

_SOFTEST, _NUM_TEMPERATURES = 0.1, 8
"""First temperature, as a share of the candidates' mean cost, and how many there are, each half the one before."""

_MOST_STEPS, _LONGEST_STEP = 15, 2.0
"""Steps at one temperature, and how many temperatures a price may change by in one of them."""

_FAR = 0.05
"""Share of rows too many or too few, over all codes, above which prices climb before codes are settled one by one."""

_MOST_SWEEPS = 10
"""Sweeps over the codes that are still too full or too empty, between two readings of all costs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidates:
    """The cheapest codes of each row at some prices."""

    codes: Int[np.ndarray, "N m"]
    costs: Float[np.ndarray, "N m"]
    """Without prices."""
    cheapest: Int[np.ndarray, "N"]
    """The very cheapest, among all codes."""


def ascend_prices(
    cost: RowSource,
    low: int,
    high: int,
    *,
    start: Float[np.ndarray, "K"] | None = None,
    num_candidates: int = _NUM_CANDIDATES,
) -> tuple[Float[np.ndarray, "K"], Int[np.ndarray, "N"]]:
    """Returns w ≥ 0 and argmin_k cost_ik + w_k, the best found to give each code between ``low`` and ``high`` rows.

    What ``balancing_prices`` finds, at a cost that grows with N K, not N K²: all costs are read at most eight times,
    and only the cheapest codes of each row are kept. On those, w_k += t log(share_k / mean share), a step of Sinkhorn's
    algorithm, climbs the dual softened by a falling temperature t; then each code out of bounds takes the price that
    lets in just enough rows. It ends at the first reading at which all codes are within bounds, else with the prices
    of the reading at which fewest rows were too many or too few.

    Args:
        cost: What each code costs each row, ≥ 0; read in pieces of rows.
        low: Fewest rows of a code.
        high: Most rows of a code.
        start: Prices for similar costs: where few rows are too many or too few, only codes out of bounds change theirs.
        num_candidates: How many of each row's codes are kept.
    """
    num_codes = cost.shape[1]
    prices = np.zeros(num_codes, dtype=np.float32) if start is None else start.astype(np.float32)
    best, codes, least = prices, np.empty(0, dtype=np.int64), np.inf
    for reading in range(_MOST_READINGS):
        candidates = _read_candidates(cost, prices, min(num_candidates, num_codes))
        missed = _num_missed(candidates.cheapest, num_codes, low, high)
        stuck = missed > least / 2
        # Sweeps from prices that are far from right make some codes far too full.
        far = missed > _FAR * cost.shape[0]
        if missed < least:
            best, codes, least = prices, candidates.cheapest, missed
        if missed == 0:
            break
        if stuck or far or (reading == 0 and start is None):
            prices = _climb(candidates, prices)
        prices = _settle(candidates, prices, low, high)
    return best, codes


def _read_candidates(cost: RowSource, prices: Float[np.ndarray, "K"], num_candidates: int) -> _Candidates:
    num_rows, num_codes = cost.shape
    codes = np.empty((num_rows, num_candidates), dtype=np.int32)
    costs = np.empty((num_rows, num_candidates), dtype=np.float32)
    cheapest = np.empty(num_rows, dtype=np.int64)
    for rows in pieces(num_rows, cells_a_row=num_codes):
        piece = np.asarray(cost[rows], dtype=np.float32)
        priced = piece + prices
        cheapest[rows] = priced.argmin(axis=1)
        codes[rows] = np.argpartition(priced, num_candidates - 1, axis=1)[:, :num_candidates]
        costs[rows] = np.take_along_axis(piece, codes[rows], axis=1)
    return _Candidates(codes=codes, costs=costs, cheapest=cheapest)


def _num_missed(codes: Int[np.ndarray, "N"], num_codes: int, low: int, high: int) -> int:
    """Returns how many rows are too many or too few, over all codes."""
    counts = np.bincount(codes, minlength=num_codes)
    return int(np.maximum(counts - high, 0).sum() + np.maximum(low - counts, 0).sum())


def _climb(candidates: _Candidates, prices: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    """Returns the prices after steps up the softened dual at each temperature, until shares differ by 5 % at most."""
    target = len(candidates.codes) / len(prices)
    for temperature in _SOFTEST * float(candidates.costs.mean()) / 2.0 ** np.arange(_NUM_TEMPERATURES):
        if temperature == 0:
            break
        for _ in range(_MOST_STEPS):
            ratio = _soft_counts(candidates, prices, float(temperature)) / target
            if np.abs(ratio - 1).max() <= 0.05:
                break
            step = np.log(np.maximum(ratio, np.exp(-_LONGEST_STEP)))
            prices = (prices + temperature * np.minimum(step, _LONGEST_STEP)).astype(np.float32)
    return prices


def _soft_counts(candidates: _Candidates, prices: Float[np.ndarray, "K"], temperature: float) -> Float[np.ndarray, "K"]:
    """Returns Σ_i softmax_k(−(cost_ik + w_k)/t) over the candidates of each row."""
    counts = np.zeros(len(prices))
    for rows in pieces(len(candidates.codes), cells_a_row=candidates.codes.shape[1]):
        codes = candidates.codes[rows]
        share = candidates.costs[rows] + prices[codes]
        share -= share.min(axis=1, keepdims=True)
        share *= np.float32(-1 / temperature)
        np.exp(share, out=share)
        share /= share.sum(axis=1, keepdims=True)
        counts += np.bincount(codes.ravel(), share.ravel(), len(prices))
    return counts


def _settle(candidates: _Candidates, prices: Float[np.ndarray, "K"], low: int, high: int) -> Float[np.ndarray, "K"]:
    """Returns prices after sweeps in which each code out of bounds takes the price between two rows' limits."""
    prices = prices.copy()
    num_rows, num_candidates = candidates.codes.shape
    ends = np.arange(num_rows + 1) * num_candidates
    places = csr_array(
        (np.arange(num_rows * num_candidates), candidates.codes.ravel(), ends), shape=(num_rows, len(prices))
    ).tocsc()
    for _ in range(_MOST_SWEEPS):
        counts = np.bincount(_cheapest_candidates(candidates, prices), minlength=len(prices))
        out_of_bounds = np.flatnonzero((counts < low) | (counts > high))
        if len(out_of_bounds) == 0:
            break
        for code in out_of_bounds:
            own = places.data[places.indptr[code] : places.indptr[code + 1]]
            limits = _limits(candidates, prices, own)
            if len(limits):
                prices[code] = price_between(limits, prices[code], low, high)
    # Before all costs are read with them, not after: rounding could move a row from one code to the other.
    prices -= prices.min()
    return prices


def _limits(
    candidates: _Candidates, prices: Float[np.ndarray, "K"], own: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Returns for each row with a code among its candidates, at given places, the price below which it takes it."""
    rows, columns = np.divmod(own, candidates.codes.shape[1])
    priced = candidates.costs[rows] + prices[candidates.codes[rows]]
    priced[np.arange(len(own)), columns] = np.inf
    limits: np.ndarray = priced.min(axis=1) - candidates.costs.ravel()[own]
    # A row without another candidate takes the code at any price: there is then one code only.
    finite: np.ndarray = limits[np.isfinite(limits)]
    return finite


def _cheapest_candidates(candidates: _Candidates, prices: Float[np.ndarray, "K"]) -> Int[np.ndarray, "N"]:
    codes = np.empty(len(candidates.codes), dtype=np.int64)
    for rows in pieces(len(codes), cells_a_row=candidates.codes.shape[1]):
        part = candidates.codes[rows]
        nearest = (candidates.costs[rows] + prices[part]).argmin(axis=1)
        codes[rows] = np.take_along_axis(part, nearest[:, None], axis=1)[:, 0]
    return codes
