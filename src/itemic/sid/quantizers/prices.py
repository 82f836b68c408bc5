"""Prices that make a nearest-code rule use every code about equally often; knows nothing of levels or residuals."""

import numpy as np
from jaxtyping import Float

from itemic.sid.quantizers.protocol import pieces

__all__ = ["balancing_prices", "nearby_prices", "price_between"]

_SOFTEST, _NUM_TEMPERATURES = 0.1, 6
"""First temperature, as a share of the mean cost, and how many there are, each half the one before."""

_MOST_STEPS, _LONGEST_STEP = 8, 3.0
"""Newton steps at one temperature, and how many temperatures a price may change by in one of them."""

_MOST_SWEEPS = 50
"""Sweeps over the codes that are still too full or too empty without softening."""


def balancing_prices(
    cost: Float[np.ndarray, "N K"], low: int, high: int, *, start: Float[np.ndarray, "K"] | None = None
) -> Float[np.ndarray, "K"]:
    """Returns w ≥ 0, least 0, for which argmin_k cost_ik + w_k gives each code between ``low`` and ``high`` rows.

    Such a rule is a power diagram, and of all assignments with the same counts it is the cheapest: w is the dual
    solution of an optimal transport from the rows to the codes (Aurenhammer, Hoffmann, Aronov, "Minkowski-type
    theorems and least-squares clustering", 1998). First the dual, softened by a temperature, is climbed by Newton's
    method as the temperature falls (Kitagawa, Mérigot, Thibert 2019, for the unsoftened one); then each code that is
    still too full or too empty is given the price that lets in just enough rows. One step reads all costs once:
    O(N K), and O(N K²) for Newton's matrix.

    Rows with equal costs cannot be told apart by any price: where there are many, counts may stay out of bounds.

    Args:
        cost: What each code costs each row, ≥ 0.
        low: Fewest rows of a code.
        high: Most rows of a code.
        start: Prices for similar costs: from them there are fewer steps to go.
    """
    scale = float(cost.mean())
    prices = np.zeros(cost.shape[1]) if start is None else start.astype(np.float64)
    # Good prices for harder temperatures come from softer ones only; begun at a hard one, even near its end, Newton's
    # method is lost where hardly any row is undecided.
    for temperature in _SOFTEST * scale / 2.0 ** np.arange(_NUM_TEMPERATURES) if scale > 0 else ():
        prices = _climb(cost, prices, float(temperature))
    return _settle(cost, (prices - prices.min()).astype(np.float32), low, high)


def nearby_prices(
    cost: Float[np.ndarray, "N K"], prices: Float[np.ndarray, "K"], low: int, high: int
) -> Float[np.ndarray, "K"]:
    """Returns prices that balance the codes as ``balancing_prices`` does, near to given ones.

    Only codes out of bounds change their price, in turn; where that does not settle within 50 sweeps, what it came to.
    """
    return _settle(cost, prices.astype(np.float32), low, high)


def _climb(cost: Float[np.ndarray, "N K"], prices: Float[np.ndarray, "K"], temperature: float) -> np.ndarray:
    """Returns the prices after damped Newton steps up the softened dual, until shares differ by 2 % at most."""
    target = len(cost) / len(prices)
    value, shares, products = _soften(cost, prices, temperature)
    for _ in range(_MOST_STEPS):
        gradient = shares - target
        if np.abs(gradient).max() <= 0.02 * target:
            break
        curvature = (np.diag(shares) - products) / temperature
        # Prices that all rise by as much change nothing: without this the matrix has no inverse.
        curvature[np.diag_indices_from(curvature)] += 1e-4 * np.trace(curvature) / len(prices) + 1e-12
        step = np.linalg.solve(curvature, gradient)
        step *= min(1, _LONGEST_STEP * temperature / np.abs(step).max())
        for length in (1, 1 / 4, 1 / 16):
            candidate = _soften(cost, prices + length * step, temperature)
            if candidate[0] > value:
                prices = prices + length * step
                value, shares, products = candidate
                break
        else:
            break
    return prices


def _soften(
    cost: Float[np.ndarray, "N K"], prices: Float[np.ndarray, "K"], temperature: float
) -> tuple[float, Float[np.ndarray, "K"], Float[np.ndarray, "K K"]]:
    """Returns the softened dual −t Σ_i log Σ_k exp(−(cost_ik + w_k)/t) − (N/K) Σ_k w_k, Σ_i p_i and Σ_i p_i p_iᵀ.

    p_ik is the softmax inside; without its part of the diagonal Σ p pᵀ makes the second derivative.
    """
    value, shares = -len(cost) / len(prices) * float(prices.sum()), np.zeros(len(prices))
    products = np.zeros((len(prices), len(prices)))
    offset = prices.astype(np.float32)
    for rows in pieces(len(cost)):
        share = cost[rows] + offset
        share *= np.float32(-1 / temperature)
        highest = share.max(axis=1, keepdims=True)
        share -= highest
        np.exp(share, out=share)
        total = share.sum(axis=1, keepdims=True)
        share /= total
        value -= temperature * float((highest + np.log(total)).sum(dtype=np.float64))
        shares += share.sum(axis=0)
        products += share.T @ share
    return value, shares, products


def _settle(cost: Float[np.ndarray, "N K"], prices: Float[np.ndarray, "K"], low: int, high: int) -> np.ndarray:
    """Returns prices after sweeps in which each code out of bounds takes the price between two rows' limits."""
    priced = cost + prices
    for _ in range(_MOST_SWEEPS):
        counts = np.bincount(priced.argmin(axis=1), minlength=len(prices))
        out_of_bounds = np.flatnonzero((counts < low) | (counts > high))
        if len(out_of_bounds) == 0:
            break
        for code in out_of_bounds:
            priced[:, code] = np.inf
            # A row takes the code as long as its price is below the row's limit.
            limits = priced.min(axis=1) - cost[:, code]
            prices[code] = price_between(limits, prices[code], low, high)
            priced[:, code] = cost[:, code] + prices[code]
    prices -= prices.min()
    return prices


def price_between(limits: Float[np.ndarray, "N"], price: np.float32, low: int, high: int) -> np.float32:
    """Returns the price nearest to the given one at which between ``low`` and ``high`` rows take the code.

    Args:
        limits: Of each row, the price below which it takes the code.
        price: Of the code now.
        low: Fewest rows.
        high: Most rows.
    """
    count = np.count_nonzero(limits > price)
    if low <= count <= high:
        return price
    wanted = min(low if count < low else high, len(limits) - 1)
    descending = -np.partition(-limits, (max(wanted - 1, 0), wanted))
    return np.float32((descending[max(wanted - 1, 0)] + descending[wanted]) / 2)
