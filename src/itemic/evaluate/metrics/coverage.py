"""Catalogue coverage: how much of the catalogue anybody is shown."""

import numpy as np
from jaxtyping import Int

__all__ = ["coverage"]


def coverage(item_index: Int[np.ndarray, "B K"], num_items: int) -> float:
    """Returns the share of the catalogue that is in at least one list.

        Coverage@K = |union of all lists| / N

    Args:
        item_index: Lists cut at K; -1 is an empty slot.
        num_items: Size of the catalogue N.
    """
    return len(np.unique(item_index[item_index >= 0])) / num_items
