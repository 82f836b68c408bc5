"""New items for a catalog that a model already speaks: coded by its quantizer, beside the codes that are there.

Knows nothing of files, texts or models.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import CatalogError, DataError
from itemic.sid.catalog import Catalog
from itemic.sid.collisions.settle import CollisionStrategy
from itemic.sid.collisions.suffix import add_suffix
from itemic.sid.collisions.unique import resolve_unique
from itemic.sid.quantizers.protocol import Quantizer

__all__ = ["append_items", "settle_beside"]


def append_items(
    catalog: Catalog, quantizer: Quantizer, item_ids: Sequence[str], x: Float[np.ndarray, "n D"]
) -> Catalog:
    """Returns the catalog with further items, coded as it codes its own; nothing that is there changes.

    A catalog that shares takes the quantizer's codes as they are. One with a level of suffixes gives the next number
    of the SID. Any other gives the nearest SID that is free (``resolve_unique``); SIDs of removed items never are.

    Args:
        catalog: What is to grow.
        quantizer: What made its codes.
        item_ids: Ids that it does not know yet.
        x: Their vectors, made like those that the quantizer learned from.

    Raises:
        CatalogError: if the quantizer is not the catalog's, an id is known, or no SID is left for an item.
        DataError: if a vector is not finite.
    """
    if len(item_ids) != len(x):
        raise DataError(f"{len(item_ids)} item ids, {len(x)} vectors: expected as many")
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise DataError(f"vector of new item {item_ids[int(finite.argmin())]!r} holds NaN or infinity")
    strategy = _strategy_of(catalog, quantizer)
    codes = settle_beside(quantizer.encode(x), x, quantizer, catalog.codes, strategy)
    if strategy == "suffix":
        _check_suffixes(codes, item_ids, catalog)
    return catalog.append(item_ids, codes)


def settle_beside(
    codes: Int[np.ndarray, "n L"],
    x: Float[np.ndarray, "n D"],
    quantizer: Quantizer,
    taken: Int[np.ndarray, "M S"],
    strategy: CollisionStrategy,
) -> Int[np.ndarray, "n S"]:
    """Returns the SIDs of further items beside those that are taken.

    Args:
        codes: As the quantizer gave them.
        x: The vectors behind them.
        quantizer: Fitted.
        taken: SIDs of other items.
        strategy: "share" keeps the codes, "suffix" counts on, any other finds free ones.

    Raises:
        CatalogError: if there are fewer SIDs than items.
    """
    if strategy == "share":
        return codes
    if strategy == "suffix":
        return add_suffix(codes, x, quantizer, taken)
    return resolve_unique(codes, x, quantizer, taken)


def _strategy_of(catalog: Catalog, quantizer: Quantizer) -> CollisionStrategy:
    """Returns how a catalog keeps new items apart, by its levels and the quantizer's.

    Raises:
        CatalogError: if these levels are not the quantizer's, with or without a level of suffixes.
    """
    if catalog.codebook_sizes == quantizer.codebook_sizes:
        return "share" if catalog.shares else "unique"
    if catalog.codebook_sizes[:-1] == quantizer.codebook_sizes:
        return "suffix"
    raise CatalogError(
        f"the catalog has codebook sizes {catalog.codebook_sizes}, the quantizer {quantizer.codebook_sizes}: it did "
        "not make these codes"
    )


def _check_suffixes(codes: Int[np.ndarray, "n L"], item_ids: Sequence[str], catalog: Catalog) -> None:
    size = catalog.codebook_sizes[-1]
    beyond = np.flatnonzero(codes[:, -1] >= size)
    if len(beyond):
        row = int(beyond[0])
        sid = tuple(codes[row, :-1].tolist())
        raise CatalogError(
            f"{len(beyond)} new items find no suffix: {item_ids[row]!r} would be number {codes[row, -1]} on {sid}, "
            f"whose suffixes are 0..{size - 1}; refit the catalog, which also makes that level larger"
        )
