"""Losses of the next item as pure functions of logits, and the negatives that one of them needs."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["binary_cross_entropy", "draw_negatives", "full_softmax"]


def full_softmax(logits: Float[Tensor, "n N"], targets: Int[Tensor, "n"]) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy over the whole catalogue.

    loss = -1/n sum_i log softmax(logits_i)[targets_i]
    """
    return functional.cross_entropy(logits, targets)


def binary_cross_entropy(positive: Float[Tensor, "n"], negative: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Returns the mean over both halves: each target against one item that is not the target.

    loss = -1/(2n) sum_i log sigmoid(positive_i) + log(1 - sigmoid(negative_i))   (Kang and McAuley, 2018, eq. 6)

    Args:
        positive: Logits of the targets.
        negative: Logits of the others.
    """
    return -(functional.logsigmoid(positive).mean() + functional.logsigmoid(-negative).mean()) / 2


def draw_negatives(targets: Int[Tensor, "n"], num_items: int, rng: np.random.Generator) -> Int[Tensor, "n"]:
    """Returns for each target another item, every one of the N - 1 with the same probability.

    The rest of the user's items are not spared: where a log has repeats, they may well be the next item.

    Args:
        targets: Item indices, on the CPU.
        num_items: Size N of the catalogue, at least 2.
        rng: Draws the items.
    """
    drawn = torch.from_numpy(rng.integers(0, num_items - 1, size=len(targets)))
    return drawn + (drawn >= targets)
