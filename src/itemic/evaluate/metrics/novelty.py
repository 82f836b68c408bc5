"""Novelty: how surprising the listed items are to somebody who knows only what is popular."""

import numpy as np
from jaxtyping import Int

__all__ = ["novelty"]


def novelty(item_index: Int[np.ndarray, "B K"], train_counts: Int[np.ndarray, "N"]) -> float:
    """Returns the mean self-information of the listed items, in bits.

        Novelty@K = mean over listed items of -log2 p(i),   p(i) = (c_i + 1) / (sum of c + N)

    with c_i the training interactions of item i. One is added to each count so that an item never seen in training
    has a finite value.

    Args:
        item_index: Lists cut at K with at least one item; -1 is an empty slot.
        train_counts: Training interactions of every item of the catalogue.
    """
    share = (train_counts + 1) / (train_counts.sum() + len(train_counts))
    return float(-np.log2(share[item_index[item_index >= 0]]).mean())
