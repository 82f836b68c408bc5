"""Ridge regression from one matrix's rows to another's, read in pieces; knows nothing of items."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from itemic.sid.quantizers.protocol import pieces

__all__ = ["Ridge", "fit_ridge", "mean_and_scatter"]

_PENALTIES = 10.0 ** np.arange(-6, 4)
"""Penalties tried, in units of the mean eigenvalue of the scatter matrix: from almost none to one that leaves little
but the mean. A tenfold step changes the error by less than its own uncertainty."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ridge:
    """y ≈ output_mean + (x − input_mean) coefficients, in float64."""

    input_mean: Float[np.ndarray, "D"]
    """Mean of the rows of x that were learned from."""
    output_mean: Float[np.ndarray, "C"]
    """Mean of those of y."""
    output_square: float
    """Mean squared length of the centred rows of y."""
    coefficients: Float[np.ndarray, "D C"]
    """(X'X + λI)⁻¹ X'Y of the centred rows."""


def fit_ridge(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N C"], chosen: Bool[np.ndarray, "N"]) -> Ridge:
    """Returns the regression with the penalty of ten that has the least generalised cross-validation error.

        GCV(λ) = n RSS(λ) / (n − df(λ))²,   df(λ) = 1 + Σ_j e_j / (e_j + λ)

    with e_j the eigenvalues of X'X (Golub, Heath and Wahba, 1979): no row is held out and there is nothing to set.

    Args:
        x: What is known.
        y: What is predicted.
        chosen: Rows to learn from, at least two.
    """
    num_rows = int(chosen.sum())
    assert num_rows >= 2
    input_mean, scatter = mean_and_scatter(x, chosen)
    output_mean = y[chosen].mean(axis=0, dtype=np.float64)
    cross, square = np.zeros((x.shape[1], y.shape[1])), 0.0
    for block, wanted in zip(_blocks(x, chosen), _blocks(y, chosen), strict=True):
        cross += (block - input_mean).T @ (wanted - output_mean)
        square += float(np.square(wanted - output_mean).sum())
    return Ridge(
        input_mean=input_mean,
        output_mean=output_mean,
        output_square=square / num_rows,
        coefficients=_solve(scatter, cross, square, num_rows),
    )


def mean_and_scatter(
    x: Float[np.ndarray, "N D"], chosen: Bool[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "D"], Float[np.ndarray, "D D"]]:
    """Returns mean and Σ (x − mean)'(x − mean) over the chosen rows, in float64 without a float64 copy of x."""
    width = x.shape[1]
    mean = np.zeros(width)
    for block in _blocks(x, chosen):
        mean += block.sum(axis=0)
    mean /= chosen.sum()
    scatter = np.zeros((width, width))
    for block in _blocks(x, chosen):
        scatter += (block - mean).T @ (block - mean)
    return mean, scatter


def _solve(
    scatter: Float[np.ndarray, "D D"], cross: Float[np.ndarray, "D C"], square: float, num_rows: int
) -> Float[np.ndarray, "D C"]:
    """Returns the coefficients.

    With X'X = Q diag(e) Q' and Z = Q'X'Y, RSS(λ) = |Y|² − Σ_j |Z_j|² (e_j + 2λ) / (e_j + λ)².
    """
    values, vectors = np.linalg.eigh(scatter)
    values = np.maximum(values, 0)
    rotated = vectors.T @ cross
    squares = np.square(rotated).sum(axis=1)
    penalties = _PENALTIES * (values.mean() or 1.0)
    errors = []
    for penalty in penalties:
        residual = max(square - float((squares * (values + 2 * penalty) / (values + penalty) ** 2).sum()), 0)
        freedom = num_rows - 1 - float((values / (values + penalty)).sum())
        errors.append(num_rows * residual / freedom**2 if freedom > 0 else np.inf)
    penalty = penalties[int(np.argmin(errors))]
    coefficients: np.ndarray = vectors @ (rotated / (values + penalty)[:, None])
    return coefficients


def _blocks(x: Float[np.ndarray, "N D"], chosen: Bool[np.ndarray, "N"]) -> Iterator[Float[np.ndarray, "b D"]]:
    """Yields the chosen rows as float64, a piece at a time."""
    for rows in pieces(len(x)):
        yield x[rows][chosen[rows]].astype(np.float64)
