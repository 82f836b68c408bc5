"""What a reward is, and what the rewards that look beyond the answers are made from; knows none of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from itemic.core.dataset import Dataset
from itemic.train.rl.answers import Answers

__all__ = ["Reward", "RewardSources"]

Reward = Callable[[Answers], Float[Tensor, "B G"]]
"""Judges every candidate of every question: finite, on the answers' device, without a gradient."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RewardSources:
    """What the makers of rewards may read; each takes what it needs."""

    dataset: Dataset
    """Of the run; only its training part teaches a reward anything."""
    vectors: Path | None
    """``embeddings.safetensors`` of the run; None where there is none."""
    num_items: int
    """Number of item indices of the catalog, removed items counted."""
    seed: int
    """The run's."""
    device: torch.device
    """Where answers lie and rewards are computed."""
    cache: Path
    """Folder for what takes long to make; made where it is missing."""
    excludes_history: bool
    """Whether items that the user had before are never recommended."""
