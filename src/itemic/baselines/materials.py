"""What a baseline may learn from: the dataset, the items' text vectors, the catalog; knows no baseline."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.sid.catalog import Catalog

__all__ = ["Materials"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Materials:
    """Inputs of a fit; what a run does not have is None."""

    dataset: Dataset
    """Catalogue, log and splits; test teaches nothing."""
    vectors: Float[np.ndarray, "N D"] | None = None
    """Text vectors of the items, row i for item_index i."""
    catalog: Catalog | None = None
    """Semantic IDs of the items."""

    def require_vectors(self, kind: str) -> Float[np.ndarray, "N D"]:
        """Returns the text vectors.

        Raises:
            ConfigError: naming the kind of baseline that needs them.
        """
        if self.vectors is None:
            raise ConfigError(f"a baseline of kind {kind} needs the items' text vectors; run itemic embed first")
        return self.vectors

    def require_catalog(self, kind: str) -> Catalog:
        """Returns the catalog.

        Raises:
            ConfigError: naming the kind of baseline that needs it.
        """
        if self.catalog is None:
            raise ConfigError(f"a baseline of kind {kind} needs semantic IDs; run itemic tokenize first")
        return self.catalog
