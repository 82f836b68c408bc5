"""How much better each answer of a group is than the others: advantages as pure functions of rewards.

Knows no policy, no reward and no item; a group is a row, and places without an answer are masked.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["AdvantageScale", "group_advantages", "has_equal_rewards"]

AdvantageScale = Literal["group", "batch", "none"]
"""What advantages are divided by: the deviation in the group (GRPO), in the batch, or nothing (Dr. GRPO)."""


def group_advantages(
    rewards: Float[Tensor, "B G"],
    is_candidate: Bool[Tensor, "B G"],
    scale: AdvantageScale,
    eps: float = 1e-4,
) -> Float[Tensor, "B G"]:
    """Returns Â_i = (R_i − mean(R)) / (std + ε), with mean(R) over the candidates of the group; 0 for no candidate.

    The source is GRPO (arXiv 2402.03300, section 4.1.2) for ``group``, where std is the group's; ``none`` divides by
    nothing (Dr. GRPO, arXiv 2503.20783, section 3.2), and ``batch`` by the standard deviation of all rewards of the
    call. Deviations are unbiased (divided by n − 1) and ε = 1e-4, as in TRL; the papers say neither.

    A group of equal rewards gets exactly 0, where TRL leaves the rounding error of its mean divided by ε; so does
    a group of one.

    Args:
        rewards: Reward of each candidate; whatever stands where there is none is not read, be it NaN.
        is_candidate: Where there is an answer.
        scale: What the centred rewards are divided by.
        eps: Added to the deviation.
    """
    mean = _masked_mean(rewards, is_candidate, dim=1)
    has_signal = is_candidate & ~has_equal_rewards(rewards, is_candidate)[:, None]
    centred = torch.where(has_signal, rewards - mean, 0.0)
    if scale == "none":
        return centred
    dim = 1 if scale == "group" else (0, 1)
    return centred / (_masked_std(rewards, is_candidate, dim) + eps)


def has_equal_rewards(rewards: Float[Tensor, "B G"], is_candidate: Bool[Tensor, "B G"]) -> Bool[Tensor, "B"]:
    """Returns whether a group teaches nothing: all its candidates have the same reward, or there is at most one.

    DAPO (arXiv 2503.14476, section 3.2) leaves such groups out; their share is a figure to watch.

    Args:
        rewards: Reward of each candidate.
        is_candidate: Where there is an answer.
    """
    highest = rewards.masked_fill(~is_candidate, -torch.inf).amax(dim=1)
    lowest = rewards.masked_fill(~is_candidate, torch.inf).amin(dim=1)
    return highest <= lowest


def _masked_mean(values: Tensor, mask: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    total = torch.where(mask, values, 0.0).sum(dim=dim, keepdim=True)
    return total / mask.sum(dim=dim, keepdim=True).clamp(min=1)


def _masked_std(values: Tensor, mask: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    distance = torch.where(mask, values - _masked_mean(values, mask, dim), 0.0)
    freedom = (mask.sum(dim=dim, keepdim=True) - 1).clamp(min=1)
    return (distance.square().sum(dim=dim, keepdim=True) / freedom).sqrt()
