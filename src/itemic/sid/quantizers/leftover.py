"""Residual levels under another last part: what they leave of the vectors is what that part learns from.

Knows nothing of how the last part codes it.
"""

from typing import TypeVar

import numpy as np
from jaxtyping import Float

from itemic.core.errors import CatalogError
from itemic.sid.quantizers.protocol import Quantizer, pieces
from itemic.sid.quantizers.residual import ResidualQuantizer
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig

__all__ = ["check_start", "first_levels", "sample_leftover"]

Kind = TypeVar("Kind", bound=ResidualQuantizer)


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
    chosen = np.sort(rng.choice(len(x), size=min(num_rows, len(x)), replace=False))
    leftover = np.empty((len(chosen), x.shape[1]), dtype=np.float32)
    for rows in pieces(len(chosen)):
        # A copy in memory: x may be mapped from a file.
        part = np.asarray(x[chosen[rows]], dtype=np.float32)
        leftover[rows] = part - levels.decode(levels.encode(part))
    return leftover


def first_levels(quantizer: ResidualQuantizer, num_levels: int, config: RQKMeansConfig) -> RQKMeans:
    """Returns the first levels of a fitted quantizer as residual k-means."""
    levels = RQKMeans(quantizer.codebook_sizes[:num_levels], config)
    levels._codebooks = quantizer.codebooks[:num_levels]
    return levels


def check_start(start: Quantizer, kind: type[Kind], codebook_sizes: tuple[int, ...], width: int) -> Kind:
    """Returns ``start`` if a fit to vectors of this width can begin there.

    Raises:
        CatalogError: if it is of another kind, of other sizes, not fitted, or fitted to vectors of another width.
    """
    if not isinstance(start, kind) or start.codebook_sizes != codebook_sizes:
        raise CatalogError(
            f"cannot start from a {start.kind} quantizer of sizes {start.codebook_sizes}: expected {kind.kind} of "
            f"sizes {codebook_sizes}; fit without start"
        )
    if not start.codebooks:
        raise CatalogError("cannot start from a quantizer that has no codebooks yet; call its fit first")
    if start.codebooks[0].shape[1] != width:
        raise CatalogError(
            f"cannot start from a quantizer of vectors {start.codebooks[0].shape[1]} wide: expected {width}; "
            "fit without start, or embed with the encoder it was fitted to"
        )
    return start
