"""From codes to a Catalog: collisions settled, the table checked. Knows no files."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from itemic.sid.catalog import Catalog
from itemic.sid.collisions.settle import CollisionStrategy, settle_collisions
from itemic.sid.quantizers.protocol import Quantizer

__all__ = ["make_catalog", "settle_catalog"]


def make_catalog(
    quantizer: Quantizer,
    x: Float[np.ndarray, "N D"],
    item_ids: Sequence[str],
    *,
    collisions: CollisionStrategy = "unique",
    spelling: str = "plain",
) -> Catalog:
    """Returns the catalog of the items whose vectors a fitted quantizer codes.

    Args:
        quantizer: Fitted, to these vectors or to others of their kind.
        x: A vector of each item.
        item_ids: The user's id of each item.
        collisions: What becomes of items with the same codes.
        spelling: How the SIDs are written as text, "plain" or "wrapped".

    Raises:
        CatalogError: if there are fewer SIDs than items, or ids repeat.
    """
    codes = quantizer.encode(x)
    return settle_catalog(
        codes, quantizer.codebook_sizes, item_ids, collisions=collisions, spelling=spelling, x=x, quantizer=quantizer
    )


def settle_catalog(
    codes: Int[np.ndarray, "N L"],
    codebook_sizes: tuple[int, ...],
    item_ids: Sequence[str],
    *,
    collisions: CollisionStrategy,
    spelling: str,
    x: Float[np.ndarray, "N D"] | None = None,
    quantizer: Quantizer | None = None,
) -> Catalog:
    """Returns the catalog of items whose codes a quantizer, or anybody else, gave; see ``settle_collisions``.

    Raises:
        CatalogError: as ``settle_collisions`` and ``Catalog``.
    """
    settled = settle_collisions(codes, codebook_sizes, collisions, x, quantizer)
    return Catalog(
        codes=settled.codes,
        item_ids=item_ids,
        codebook_sizes=settled.codebook_sizes,
        shares=settled.shares,
        spelling=spelling,
    )
