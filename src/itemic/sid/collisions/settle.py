"""What becomes of items that the quantizer gave the same codes: one strategy a name."""

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import CatalogError
from itemic.sid.collisions.sinkhorn import resolve_sinkhorn
from itemic.sid.collisions.suffix import add_suffix, suffix_size
from itemic.sid.collisions.unique import resolve_unique
from itemic.sid.order import num_distinct_rows
from itemic.sid.quantizers.protocol import Quantizer

__all__ = ["CollisionStrategy", "SettledCodes", "settle_collisions"]

log = logging.getLogger("itemic")

CollisionStrategy = Literal["unique", "suffix", "sinkhorn", "share"]


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
        strategy: "unique" moves items until each has a SID of its own, at the same length; "suffix" adds a level that
            numbers the items of a SID; "sinkhorn" codes colliding items anew, which may leave some; "share" changes
            nothing.
        x: The vectors behind the codes; may be missing where nothing moves.
        quantizer: What tells the distance of a move; goes with ``x``.

    Raises:
        CatalogError: if items must move and there are no vectors, or there are fewer SIDs than items.
    """
    if strategy == "share":
        return SettledCodes(codes=codes, codebook_sizes=codebook_sizes, shares=True)
    if strategy == "suffix":
        suffixed = add_suffix(codes, x, quantizer)
        sizes = (*codebook_sizes, suffix_size(suffixed[:, -1]))
        return SettledCodes(codes=suffixed, codebook_sizes=sizes, shares=False)
    num_repeats = _num_repeats(codes)
    if num_repeats == 0:
        return SettledCodes(codes=codes, codebook_sizes=codebook_sizes, shares=False)
    if x is None or quantizer is None:
        raise CatalogError(
            f"the given SIDs collide (rate {num_repeats / len(codes):.2%}) and making them unique needs "
            "embeddings.safetensors; run itemic embed first, or set collisions: share"
        )
    if strategy == "unique":
        return SettledCodes(codes=resolve_unique(codes, x, quantizer), codebook_sizes=codebook_sizes, shares=False)
    balanced = resolve_sinkhorn(codes, x, quantizer)
    remaining = _num_repeats(balanced)
    if remaining:
        log.warning(
            "collisions: sinkhorn leaves %d of %d items without a SID of their own (before: %d); "
            "collisions: unique leaves none",
            remaining,
            len(codes),
            num_repeats,
        )
    return SettledCodes(codes=balanced, codebook_sizes=codebook_sizes, shares=remaining > 0)


def _num_repeats(codes: Int[np.ndarray, "N L"]) -> int:
    """Returns N minus the number of distinct SIDs."""
    return len(codes) - num_distinct_rows(codes)
