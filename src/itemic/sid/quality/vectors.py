"""Cosine similarities of item vectors, in pieces; knows nothing of codes."""

import numpy as np
from jaxtyping import Float, Int

from itemic.sid.quantizers.protocol import pieces

__all__ = ["pair_similarities", "unit_rows"]


def unit_rows(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Returns x / ‖x‖ for each row in float32; a zero row stays zero."""
    rows = np.asarray(x, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units: np.ndarray = rows / np.where(norms > 0, norms, 1)
    return units


def pair_similarities(x: Float[np.ndarray, "N D"], pairs: Int[np.ndarray, "P 2"]) -> Float[np.ndarray, "P"]:
    """Returns the cosine of the two vectors of each pair."""
    similarities = np.empty(len(pairs), dtype=np.float32)
    for part in pieces(len(pairs)):
        one, other = (unit_rows(x[pairs[part, side]]) for side in (0, 1))
        similarities[part] = np.einsum("nd,nd->n", one, other)
    return similarities
