"""Losses as pure functions of tensors; knows no model, batch or device."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["label_nll", "smoothed_nll", "sum_by_task"]


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


def smoothed_nll(
    logits: Float[Tensor, "P V"],
    label_position: Int[Tensor, "M"],
    label_token: Int[Tensor, "M"],
    level_tokens: Sequence[Int[Tensor, "_"]],
    smoothing: float,
) -> Float[Tensor, "M"]:
    """Returns the cross-entropy with a label that is smoothed over the codes of its own level (Szegedy 2016).

    A label y of level l has the target ``q = (1 - s) [y] + s / K_l`` on the K_l codes of its level, so its loss is
    ``(1 - s) nll(y) + s * mean of nll(c) over the codes c of level l``. Not over the whole vocabulary: what stands
    after a prefix is a code of one level and never anything else, and mass on the rest would only be taken from the
    codes. A label that is no code (a word of an answer) keeps :func:`label_nll`.

    Args:
        logits: Scores of the vocabulary at each position.
        label_position: Row of ``logits`` for each label.
        label_token: Column of ``logits`` for each label.
        level_tokens: For each level the columns of its codes.
        smoothing: s, in [0, 1).
    """
    scores = logits.float()
    nll = label_nll(scores, label_position, label_token)
    normaliser = torch.logsumexp(scores, dim=-1)
    for tokens in level_tokens:
        uniform = (normaliser - scores[:, tokens].mean(dim=-1))[label_position]
        nll = torch.where(torch.isin(label_token, tokens), (1 - smoothing) * nll + smoothing * uniform, nll)
    return nll


def sum_by_task(values: Float[Tensor, "M"], label_task: Int[Tensor, "M"], num_tasks: int) -> Float[Tensor, "num_tasks"]:
    """Returns the sum of ``values`` for each task."""
    return torch.zeros(num_tasks, dtype=values.dtype, device=values.device).index_add(0, label_task, values)
