"""How much of the vectors the codes keep; knows quantizers by their protocol alone."""

import numpy as np
from jaxtyping import Float, Int

from itemic.sid.quantizers.protocol import Quantizer, pieces

__all__ = ["prefix_reconstruction", "reconstruction"]


def reconstruction(
    codes: Int[np.ndarray, "N L"], x: Float[np.ndarray, "N D"], quantizer: Quantizer
) -> dict[str, float | None]:
    """Returns the error of decoding the codes.

    ``mse`` = mean of (x − x̂)² over items and dimensions; ``relative`` = Σ‖x − x̂‖² / Σ‖x − mean‖², the share of
    the variance that the codes do not explain (null where the vectors do not vary).
    """
    error = sum(_sum_of_squares(_float32(x[rows]) - quantizer.decode(codes[rows])) for rows in pieces(len(x)))
    return _figures(error, _variance(x), x.size)


def prefix_reconstruction(
    codes: Int[np.ndarray, "N L"], x: Float[np.ndarray, "N D"], quantizer: Quantizer
) -> list[dict[str, float | None]]:
    """Returns ``reconstruction`` of the prefixes of 1, 2 ... L codes: what each level adds."""
    errors = np.zeros(codes.shape[1])
    for rows in pieces(len(x)):
        piece = _float32(x[rows])
        for level in range(codes.shape[1]):
            errors[level] += _sum_of_squares(piece - quantizer.decode(codes[rows, : level + 1]))
    variance = _variance(x)
    return [_figures(float(error), variance, x.size) for error in errors]


def _figures(error: float, variance: float, size: int) -> dict[str, float | None]:
    return {"mse": error / size, "relative": error / variance if variance > 0 else None}


def _variance(x: Float[np.ndarray, "N D"]) -> float:
    """Returns Σ‖x − mean‖²."""
    total = np.zeros(x.shape[1])
    for rows in pieces(len(x)):
        total += _float32(x[rows]).sum(axis=0, dtype=np.float64)
    mean = (total / len(x)).astype(np.float32)
    return sum(_sum_of_squares(_float32(x[rows]) - mean) for rows in pieces(len(x)))


def _float32(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    return np.asarray(x, dtype=np.float32)


def _sum_of_squares(x: Float[np.ndarray, "N D"]) -> float:
    """Returns Σ x², summed in float64 without a float64 copy of ``x``."""
    return float(np.einsum("nd,nd->", x, x, dtype=np.float64))
