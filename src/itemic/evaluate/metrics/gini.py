"""Gini index: how unevenly the items share the slots."""

import numpy as np
from jaxtyping import Int

__all__ = ["gini"]


def gini(item_index: Int[np.ndarray, "B K"], num_items: int) -> float:
    """Returns how concentrated the lists are: 0 where every item is listed equally often, 1 - 1/N where one item is.

        Gini = sum over i of (2 i - N - 1) x_i / (N * sum over i of x_i),   x_1 <= ... <= x_N

    where x are the times each item of the catalogue is listed, those never listed included.

    Args:
        item_index: Lists cut at K with at least one item; -1 is an empty slot.
        num_items: Size of the catalogue N.
    """
    times_listed = np.sort(np.bincount(item_index[item_index >= 0], minlength=num_items))
    weight = 2 * np.arange(1, num_items + 1) - num_items - 1
    return float(weight @ times_listed / (num_items * times_listed.sum()))
