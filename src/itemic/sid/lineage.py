"""Whether a model may speak a catalog: the very one it was trained on, or another one if its user says so."""

import logging

from itemic.core.errors import CatalogError
from itemic.sid.catalog import Catalog

__all__ = ["check_trained_on", "describe_change"]

log = logging.getLogger("itemic")


def check_trained_on(
    catalog: Catalog, version: str, codebook_sizes: tuple[int, ...], spelling: str, *, allow_change: bool
) -> None:
    """Raises unless a model may decode the catalog; warns where it may, but the codes may mean other items.

    Args:
        catalog: What is to be decoded.
        version: Version of the catalog that the model was trained on.
        codebook_sizes: Number of codes of each level that the model can write.
        spelling: How it writes them.
        allow_change: Whether another catalog will do if the model can write its SIDs.

    Raises:
        CatalogError: if it is another catalog and that is not allowed, or the model has no words for its SIDs.
    """
    if catalog.version == version:
        return
    change = f"the model was trained on catalog {version[:12]!r}; this one, {catalog.version[:12]!r}, "
    change += describe_change(catalog, version)
    if (catalog.codebook_sizes, catalog.spelling) != (codebook_sizes, spelling):
        raise CatalogError(
            f"{change}, and the model cannot write its SIDs: it has codebook sizes {codebook_sizes} spelled "
            f"{spelling}, the catalog {catalog.codebook_sizes} spelled {catalog.spelling}. Train a model on it"
        )
    if not allow_change:
        hint = "" if catalog.descends_from(version) else ", so its codes may mean other items"
        raise CatalogError(
            f"{change}{hint}. Train a model on it, or use this one all the same with --allow-catalog-change "
            "(allow_catalog_change=True)"
        )
    if not catalog.descends_from(version):
        log.warning("%s: its codes may mean other items", change)


def describe_change(catalog: Catalog, version: str) -> str:
    """Returns what has become of the catalog of a version, to follow "this catalog": "has grown by 3 items ..."."""
    ancestor = catalog.ancestor(version)
    if ancestor is not None:
        num_new = len(catalog) - ancestor.num_items
        num_retired = ancestor.num_active + num_new - catalog.num_active
        return f"descends from it: {num_new} items more, {num_retired} retired"
    if catalog.refit_of == version:
        return "is a refit of it: the items were coded anew"
    if any(earlier.version == version for earlier in catalog.before_refit):
        return "is a refit of a catalog that grew from it: the items were coded anew"
    return "is another catalog altogether"
