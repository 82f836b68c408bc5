"""What becomes of items that the quantizer gave the same codes: one strategy a name."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import CatalogError
from itemic.sid.collisions.unique import resolve_unique
from itemic.sid.quality import collisions
from itemic.sid.quantizers.protocol import Quantizer

__all__ = ["CollisionStrategy", "SettledCodes", "settle_collisions"]

CollisionStrategy = Literal["unique", "share"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SettledCodes:
    """Codes as the catalog keeps them."""

    codes: Int[np.ndarray, "N L"]
    """SID of each item."""
    codebook_sizes: tuple[int, ...]
    """Number of codes of each level."""
    shares: bool
    """Whether items may share a SID."""


def settle_collisions(
    codes: Int[np.ndarray, "N L"],
    codebook_sizes: tuple[int, ...],
    strategy: CollisionStrategy,
    x: Float[np.ndarray, "N D"] | None = None,
    quantizer: Quantizer | None = None,
) -> SettledCodes:
    """Returns what a catalog keeps of a quantizer's codes.

    Args:
        codes: As the quantizer, or anybody else, gave them.
        codebook_sizes: Number of codes of each level.
        strategy: "unique" moves items until each has a SID of its own, at the same length; "share" changes nothing.
        x: The vectors behind the codes; may be missing where nothing moves.
        quantizer: What tells the distance of a move; goes with ``x``.

    Raises:
        CatalogError: if items must move and there are no vectors, or there are fewer SIDs than items.
    """
    if strategy == "share" or collisions(codes)["rate"] == 0:
        return SettledCodes(codes=codes, codebook_sizes=codebook_sizes, shares=strategy == "share")
    if x is None or quantizer is None:
        raise CatalogError(
            f"the given SIDs collide (rate {collisions(codes)['rate']:.2%}) and making them unique needs "
            "embeddings.safetensors; run itemic embed first, or set collisions: share"
        )
    return SettledCodes(codes=resolve_unique(codes, x, quantizer), codebook_sizes=codebook_sizes, shares=False)
