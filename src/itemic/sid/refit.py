"""Codes learned anew from the items of today, with a table from the old ones to the new.

Knows nothing of files or models.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from itemic.sid.catalog import Catalog
from itemic.sid.collisions.settle import CollisionStrategy, settle_collisions
from itemic.sid.collisions.suffix import suffix_size
from itemic.sid.growth import settle_beside
from itemic.sid.quantizers.fit import fit_quantizer
from itemic.sid.quantizers.protocol import Quantizer

__all__ = ["Refitted", "code_mapping", "refit_catalog"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Refitted:
    """A catalog of the same items with other codes."""

    catalog: Catalog
    """The new catalog: a new line, which says what it is a refit of."""
    quantizer: Quantizer
    """What made its codes."""
    mapping: pl.DataFrame
    """As ``code_mapping`` gives it."""

    @property
    def summary(self) -> dict[str, Any]:
        """How many items there are, and for each prefix length the share of active items that kept it."""
        num_levels = self.catalog.num_levels
        changed = self.mapping.filter("active")["changed_level"].fill_null(num_levels).to_numpy()
        kept = [float((changed >= length).mean()) for length in range(1, num_levels + 1)]
        return {
            "num_items": len(self.catalog),
            "num_active": self.catalog.num_active,
            "share_with_same_prefix": kept,
        }


def refit_catalog(
    catalog: Catalog,
    quantizer: Quantizer,
    x: Float[np.ndarray, "N D"],
    rng: np.random.Generator,
    collisions: CollisionStrategy = "unique",
    collaborative: Float[np.ndarray, "N C"] | None = None,
) -> Refitted:
    """Returns the catalog coded anew by a quantizer of the same kind and settings, learned from its active items.

    Learning begins at the old quantizer, so that as many codes as possible keep their meaning; still, a model must be
    trained again. The new catalog is a line of its own: its SIDs need not be those of the old one, and a SID that a
    removed item had may go to another one. Removed items stay removed, and are coded after the active ones, so that
    old histories can be written in the new codes.

    Args:
        catalog: The old one.
        quantizer: What made its codes.
        x: The vectors of all its items, removed ones included.
        rng: Of every random choice.
        collisions: What becomes of items with the same codes.
        collaborative: A vector of each item from the log, for a quantizer that learns from those too.

    Raises:
        CatalogError: if there are too few active items to learn from, or fewer SIDs than items.
        DataError: if a vector is not finite.
    """
    active, removed = np.flatnonzero(catalog.active), np.flatnonzero(~catalog.active)
    x_active, from_log = (_rows(array, active) for array in (x, collaborative))
    fresh = fit_quantizer(_unfitted(quantizer), x_active, rng, start=quantizer, collaborative=from_log)
    settled = settle_collisions(fresh.encode(x_active), fresh.codebook_sizes, collisions, x_active, fresh)
    codes = np.empty((len(catalog), len(settled.codebook_sizes)), dtype=np.int64)
    codes[active] = settled.codes
    if len(removed):
        strategy: CollisionStrategy = "share" if settled.shares else collisions
        codes[removed] = settle_beside(fresh.encode(x[removed]), x[removed], fresh, settled.codes, strategy)
    sizes = settled.codebook_sizes
    if collisions == "suffix":
        sizes = (*fresh.codebook_sizes, suffix_size(codes[:, -1]))
    renewed = catalog.refitted(codes, sizes, shares=settled.shares)
    return Refitted(catalog=renewed, quantizer=fresh, mapping=code_mapping(catalog, renewed))


def code_mapping(old: Catalog, new: Catalog) -> pl.DataFrame:
    """Returns one row an item: item_index, item_id, active, old_codes, new_codes and changed_level.

    ``changed_level`` is the first level (from 0) whose code differs, null where the SID is the same. Where one SID is
    longer, by a level of suffixes say, it counts as changed there.
    """
    common = min(old.num_levels, new.num_levels)
    differs = old.codes[:, :common] != new.codes[:, :common]
    differs = np.column_stack([differs, np.full(len(old), old.num_levels != new.num_levels)])
    first = np.where(differs.any(axis=1), differs.argmax(axis=1), -1)
    return pl.DataFrame(
        [
            pl.int_range(len(new), dtype=pl.Int64, eager=True).alias("item_index"),
            pl.Series("item_id", new.item_ids, dtype=pl.String),
            pl.Series("active", new.active),
            _as_lists("old_codes", old.codes),
            _as_lists("new_codes", new.codes),
            pl.Series("changed_level", first, dtype=pl.Int64).replace(-1, None),
        ]
    )


def _unfitted(quantizer: Any) -> Quantizer:
    """Returns a quantizer of the same kind, sizes and settings; every kind is made of these two."""
    unfitted: Quantizer = type(quantizer)(quantizer.codebook_sizes, quantizer.config)
    return unfitted


def _rows(array: np.ndarray | None, rows: Int[np.ndarray, "n"]) -> Any:
    """Returns some rows of an array that may be missing; the array itself, not a copy, for all of them."""
    return array if array is None or len(rows) == len(array) else array[rows]


def _as_lists(name: str, codes: Int[np.ndarray, "N L"]) -> pl.Series:
    return pl.Series(name, codes, dtype=pl.Array(pl.Int64, codes.shape[1])).cast(pl.List(pl.Int64))
