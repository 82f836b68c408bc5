"""Reading prompts into a cache, once each, whatever the number of beams; knows no tree and no score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.errors import DataError
from itemic.decode.policy import Policy

__all__ = ["PromptBatch", "check_prompts", "in_batches", "read_prompts"]

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Prompts that a model has read."""

    hidden: Float[Tensor, "B D"]
    """State at each prompt's last token, from which the next one is predicted."""
    length: Int[Tensor, "B"]
    """Tokens of each prompt: the position of whatever comes next."""
    is_token: Bool[Tensor, "B S"]
    """Which slots of the cache hold a token of the prompt; the others are filling."""
    cache: Any
    """Keys and values of the S slots."""


def read_prompts(policy: Policy, prompts: Sequence[Sequence[int]]) -> PromptBatch:
    """Returns the prompts in a cache, filled up on the right to the longest one."""
    device = policy.device
    lengths = [len(prompt) for prompt in prompts]
    width = max(lengths)
    ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=device)
    length = torch.tensor(lengths, device=device)
    position = torch.arange(width, device=device)
    is_token = position < length[:, None]
    mask = is_token[:, None, None, :] & (position <= position[:, None])
    hidden, cache = policy.hidden(ids, mask, position.expand_as(ids), None, use_cache=True)
    last = hidden[torch.arange(len(prompts), device=device), length - 1]
    return PromptBatch(last, length, is_token, cache)


def check_prompts(prompts: Sequence[Sequence[int]]) -> None:
    """Refuses empty prompts.

    Raises:
        DataError: naming the first.
    """
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise DataError(f"prompt {row} is empty; expected at least one token")


def in_batches(
    prompts: Sequence[Sequence[int]], batch_size: int, run: Callable[[Int[Tensor, "b"]], tuple[Tensor, ...]]
) -> tuple[Tensor, ...] | None:
    """Returns what ``run`` gives for rows of prompts of like length, put together in the prompts' order.

    Args:
        prompts: Token ids.
        batch_size: Most rows in one call.
        run: From row numbers to tensors with a row for each.

    Returns:
        The tensors; None where there is no prompt.
    """
    order = torch.from_numpy(np.argsort([len(prompt) for prompt in prompts], kind="stable").astype(np.int64))
    parts = [run(rows) for rows in torch.split(order, batch_size) if len(rows)]
    if not parts:
        return None
    back = order.argsort()
    return tuple(torch.cat(columns)[back.to(columns[0].device)] for columns in zip(*parts, strict=True))
