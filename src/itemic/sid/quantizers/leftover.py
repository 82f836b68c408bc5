"""Residual levels under another last part: what they leave of the vectors is what that part learns from.

Knows nothing of how the last part codes it.
"""

import numpy as np
from jaxtyping import Float

from itemic.sid.quantizers.kmeans import draw_rows
from itemic.sid.quantizers.protocol import Quantizer, pieces
from itemic.sid.quantizers.residual import ResidualQuantizer
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig

__all__ = ["first_levels", "sample_leftover"]


def sample_leftover(
    x: Float[np.ndarray, "N D"], levels: Quantizer, num_rows: int, rng: np.random.Generator
) -> Float[np.ndarray, "n D"]:
    """Returns what fitted levels leave of at most ``num_rows`` vectors, drawn without replacement, in row order.

    Args:
        x: All vectors.
        levels: The residual levels.
        num_rows: Most rows to return; all of them if there are fewer.
        rng: Of the draw.
    """
    leftover = draw_rows(x, num_rows, rng)
    for rows in pieces(len(leftover), cells_a_row=leftover.shape[1]):
        leftover[rows] -= levels.decode(levels.encode(leftover[rows]))
    return leftover


def first_levels(quantizer: ResidualQuantizer, num_levels: int, config: RQKMeansConfig) -> RQKMeans:
    """Returns the first levels of a fitted quantizer as residual k-means."""
    return RQKMeans.from_codebooks(quantizer.codebooks[:num_levels], config)
