"""Invalid rate: how many slots hold no item that may be shown."""

import numpy as np
from jaxtyping import Bool, Int

from itemic.core.ranking import Histories

__all__ = ["invalid_rate", "valid_slots"]


def valid_slots(
    item_index: Int[np.ndarray, "B K"], num_items: int, exclude: Histories | None = None
) -> Bool[np.ndarray, "B K"]:
    """Returns which slots hold an item of the catalogue that is not excluded and not listed before in the same row.

    Args:
        item_index: Lists, best first; -1 is an empty slot.
        num_items: Size of the catalogue N.
        exclude: For each row the items that must not be listed.
    """
    rows = np.arange(len(item_index))[:, None]
    in_catalogue = (item_index >= 0) & (item_index < num_items)
    cell = np.where(in_catalogue, rows * num_items + item_index, -1)
    first = np.zeros(cell.size, dtype=bool)
    first[np.unique(cell, return_index=True)[1]] = True
    valid = in_catalogue & first.reshape(cell.shape)
    if exclude is not None:
        excluded = [row * num_items + item for row, items in enumerate(exclude) for item in items]
        valid &= ~np.isin(cell, np.array(excluded, dtype=np.int64))
    return valid


def invalid_rate(
    item_index: Int[np.ndarray, "B K"], valid: Bool[np.ndarray, "B K"], num_allowed: Int[np.ndarray, "B"]
) -> float:
    """Returns the share of the slots of all lists that hold no valid item.

        Invalid@K = 1 - (valid slots) / (slots),   slots of a row = max(filled slots, min(K, allowed items))

    An empty slot counts where an allowed item was left that could have filled it, and not where none was.

    Args:
        item_index: Lists cut at K; -1 is an empty slot.
        valid: What ``valid_slots`` says of them.
        num_allowed: For each row the number of items that may be listed.
    """
    num_filled = (item_index != -1).sum(axis=1)
    num_slots = np.maximum(num_filled, np.minimum(item_index.shape[1], num_allowed)).sum()
    return float(1 - valid.sum() / num_slots) if num_slots else 0.0
