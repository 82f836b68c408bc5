"""Losses as pure functions of tensors; knows no model, batch or device."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["label_nll", "sum_by_task"]


def label_nll(
    logits: Float[Tensor, "P V"], label_position: Int[Tensor, "M"], label_token: Int[Tensor, "M"]
) -> Float[Tensor, "M"]:
    """Returns the negative log-likelihood of each label, in nats: ``logsumexp(z) - z[label]``.

    Several labels may be read from one position (histories that agree with different targets); its log-normaliser
    is then computed once.

    Args:
        logits: Scores of the vocabulary at each position; computed in float32 whatever the model's format.
        label_position: Row of ``logits`` for each label.
        label_token: Column of ``logits`` for each label.
    """
    scores = logits.float()
    normaliser = torch.logsumexp(scores, dim=-1)
    return normaliser[label_position] - scores[label_position, label_token]


def sum_by_task(values: Float[Tensor, "M"], label_task: Int[Tensor, "M"], num_tasks: int) -> Float[Tensor, "num_tasks"]:
    """Returns the sum of ``values`` for each task."""
    return torch.zeros(num_tasks, dtype=values.dtype, device=values.device).index_add(0, label_task, values)
