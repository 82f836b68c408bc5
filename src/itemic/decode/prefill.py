"""Reading prompts into a cache, once each, whatever the number of beams; knows no tree and no score.

Prompts of one kind begin alike: the same system text and instruction. ``PrefixMemory`` reads such a beginning once and
starts every batch from it. It is an object of its own that the caller holds as long as the weights stay as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.errors import ArtifactError, ConfigError, DataError
from itemic.decode.filters import ItemFilter
from itemic.decode.policy import Policy
from itemic.decode.trie import Trie

__all__ = [
    "PrefixMemory",
    "PromptBatch",
    "check_filter",
    "check_numbers",
    "check_prompts",
    "check_scores",
    "cut_batches",
    "in_batches",
    "read_prompts",
]

_TOKENS_PER_PASS = {"cpu": 64}
"""What one more pass through the model costs, in tokens: the weights are read and the kernels started anew."""
_TOKENS_PER_PASS_ELSEWHERE = 1024
_NUM_RECENT = 8
_MAX_PREFIXES = 4


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


@dataclass(frozen=True, eq=False)
class _Prefix:
    """A beginning of prompts that was read."""

    tokens: list[int]
    cache: Any
    """Its keys and values, as one row."""

    def begins(self, prompts: Sequence[Sequence[int]]) -> bool:
        """Returns whether every prompt goes on after this beginning."""
        size = len(self.tokens)
        return all(len(prompt) > size and prompt[:size] == self.tokens for prompt in prompts)


class PrefixMemory:
    """What prompts have in common at their beginning, read once by one model and kept.

    It is right only as long as the model's weights stay as they are: training makes a new one for every roll-out. At
    most four beginnings of ``max_tokens`` are held, those used last, and the tokens of the newest eight single prompts.
    """

    def __init__(self, policy: Policy, max_tokens: int = 1024) -> None:
        """Holds nothing yet.

        Args:
            policy: The model, in evaluation mode.
            max_tokens: Longest beginning that is held.
        """
        self._policy = policy
        self._max_tokens = max_tokens
        # Replaced and never changed in place, so that a server's threads may share the memory.
        self._prefixes: tuple[_Prefix, ...] = ()
        self._recent: tuple[list[int], ...] = ()

    def num_shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """Returns how many tokens of each prompt are held."""
        prefix = self._longest(_as_lists(prompts))
        return 0 if prefix is None else len(prefix.tokens)

    @torch.no_grad()
    def learn(self, prompts: Sequence[Sequence[int]]) -> None:
        """Reads what the prompts of a call begin with, where that saves more tokens than it costs.

        A call of one prompt is compared with the calls before it: what at least two of the newest eight share with it,
        and a quarter of them, is taken for the common beginning.
        """
        prompts = _as_lists(prompts)
        if not prompts:
            return
        num_tokens = self._common(prompts) if len(prompts) > 1 else self._recurring(prompts[0])
        held = self._longest(prompts)
        num_held = 0 if held is None else len(held.tokens)
        num_uses = len(prompts) if len(prompts) > 1 else _NUM_RECENT
        if num_uses * (num_tokens - num_held) > num_tokens - num_held + tokens_per_pass(self._policy.device):
            tokens = prompts[0][:num_tokens]
            held = _Prefix(tokens, read_prompts(self._policy, [tokens], held).cache)
        if held is not None:
            others = [prefix for prefix in self._prefixes if prefix is not held]
            self._prefixes = (*others, held)[-_MAX_PREFIXES:]
        if len(prompts) == 1:
            self._recent = (*self._recent, prompts[0][: self._max_tokens])[-_NUM_RECENT:]

    @torch.no_grad()
    def read(self, prompts: Sequence[Sequence[int]]) -> PromptBatch:
        """Returns the prompts in a cache of their own, read from the longest held beginning that all share."""
        prompts = _as_lists(prompts)
        return read_prompts(self._policy, prompts, self._longest(prompts))

    def _longest(self, prompts: list[list[int]]) -> _Prefix | None:
        fitting = [prefix for prefix in self._prefixes if prefix.begins(prompts)]
        return max(fitting, key=lambda prefix: len(prefix.tokens), default=None)

    def _common(self, prompts: list[list[int]]) -> int:
        """Returns how many tokens all begin with; each keeps one of its own, from which the answer is predicted."""
        # What the first and the last in alphabetical order share, all share.
        shared = _num_equal(min(prompts), max(prompts))
        return min(shared, min(map(len, prompts)) - 1, self._max_tokens)

    def _recurring(self, prompt: list[int]) -> int:
        """Returns how many tokens a single prompt shares with enough of the recent ones."""
        shared = sorted((_num_equal(prompt, other) for other in self._recent), reverse=True)
        needed = max(2, len(shared) // 4)
        return min(shared[needed - 1], len(prompt) - 1, self._max_tokens) if len(shared) >= needed else 0


def read_prompts(policy: Policy, prompts: Sequence[Sequence[int]], prefix: _Prefix | None = None) -> PromptBatch:
    """Returns the prompts in a cache, filled up on the right to the longest one.

    Args:
        policy: The model, in evaluation mode.
        prompts: Token ids.
        prefix: What all prompts begin with, already read; its own cache stays as it is.
    """
    device = policy.device
    start = 0 if prefix is None else len(prefix.tokens)
    own = [len(prompt) - start for prompt in prompts]
    width = max(own)
    ids = torch.tensor([[*prompt[start:], *[0] * (width - size)] for prompt, size in zip(prompts, own, strict=True)])
    size = torch.tensor(own)
    slot = torch.arange(start + width)
    is_token = slot < start + size[:, None]
    mask = is_token[:, None, None, :] & (slot <= slot[start:, None])
    ids, size, is_token, mask, position = (
        each.to(device) for each in (ids, size, is_token, mask, slot[start:].expand_as(ids))
    )
    cache = None if prefix is None else policy.repeat_cache(prefix.cache, len(prompts))
    hidden, cache = policy.hidden(ids, mask, position, cache, use_cache=True)
    last = hidden[torch.arange(len(prompts), device=device), size - 1]
    return PromptBatch(last, start + size, is_token, cache)


def check_prompts(prompts: Sequence[Sequence[int]], vocabulary_size: int | None = None) -> None:
    """Refuses empty prompts and tokens that the model does not have.

    Args:
        prompts: Token ids.
        vocabulary_size: Number of the model's tokens; None looks at no token.

    Raises:
        DataError: naming the first.
    """
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise DataError(f"prompt {row} is empty; expected at least one token")
        if vocabulary_size is not None and not 0 <= min(prompt) <= max(prompt) < vocabulary_size:
            token = min(prompt) if min(prompt) < 0 else max(prompt)
            raise DataError(f"prompt {row} holds the token {token}; the model has 0..{vocabulary_size - 1}")


def check_filter(allowed: ItemFilter | None, trie: Trie, num_prompts: int) -> None:
    """Refuses a filter that was not made for these prompts and this tree.

    Args:
        allowed: The filter; None is always right.
        trie: The tree as the search was given it: the filter must hold the same object.
        num_prompts: Number of prompts.

    Raises:
        DataError: if it is of another tree or of another number of requests.
    """
    if allowed is None:
        return
    if allowed.trie is not trie:
        raise DataError(
            f"the filter is of a tree of {allowed.trie.num_items} items on {allowed.trie.item_of_slot.device}; "
            f"expected the one that the search was given, of {trie.num_items} items on {trie.item_of_slot.device}: "
            "make the filter with that very tree"
        )
    if len(allowed) != num_prompts:
        raise DataError(f"the filter has {len(allowed)} requests; expected {num_prompts}, one for each prompt")


def check_numbers(**numbers: int) -> None:
    """Refuses what is no whole number of at least 1.

    Raises:
        ConfigError: naming the first.
    """
    for name, value in numbers.items():
        if not isinstance(value, int | np.integer):
            raise ConfigError(f"{name} must be a whole number, found {value!r}")
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, found {value}")


def check_scores(logprob: Float[Tensor, "B W"]) -> None:
    """Refuses log-probabilities that are no numbers, which would be listed before every other; waits for the device.

    Raises:
        ArtifactError: if there is one.
    """
    num_rows = int(logprob.isnan().any(dim=1).sum())
    if num_rows:
        raise ArtifactError(
            f"the model returned NaN for {num_rows} of a batch of {len(logprob)} prompts; expected finite logits: its "
            "weights are damaged, or too large for its number format"
        )


def in_batches(
    prompts: Sequence[Sequence[int]],
    batch_size: int,
    run: Callable[[Int[Tensor, "b"]], tuple[Tensor, ...]],
    *,
    num_shared: int = 0,
    device: torch.device | None = None,
    num_passes: int = 1,
) -> tuple[Tensor, ...]:
    """Returns what ``run`` gives for rows of prompts of like length, put together in the prompts' order.

    Args:
        prompts: Token ids of at least one.
        batch_size: Most rows in one call.
        run: From row numbers to tensors with a row for each.
        num_shared: Tokens at the beginning of every prompt that need no reading.
        device: Where the model is; it says what a further batch costs. None: the CPU.
        num_passes: Passes through the model that one call of ``run`` makes: the more, the less a small batch pays.
    """
    length = np.array([len(prompt) - num_shared for prompt in prompts])
    order = np.argsort(length, kind="stable")
    sizes = cut_batches(length[order], batch_size, num_passes * tokens_per_pass(device or torch.device("cpu")))
    rows = torch.from_numpy(order.astype(np.int64))
    parts = [run(part) for part in torch.split(rows, sizes)]
    back = rows.argsort()
    return tuple(torch.cat(columns)[back.to(columns[0].device)] for columns in zip(*parts, strict=True))


def cut_batches(length: Int[np.ndarray, "n"], batch_size: int, tokens_per_batch: int) -> list[int]:
    """Returns the sizes of the batches, in order, that cost least; a batch is as wide as its longest prompt.

    The cost is Σ over batches of (rows · longest + tokens_per_batch), made least by dynamic programming: padding is
    weighed against many small batches.

    Args:
        length: Tokens of each prompt, ascending.
        batch_size: Most rows of a batch.
        tokens_per_batch: Cost of a batch beside its tokens, in tokens.
    """
    cost = np.zeros(len(length) + 1)
    begin = np.zeros(len(length) + 1, dtype=np.int64)
    for end in range(1, len(length) + 1):
        first = np.arange(max(0, end - batch_size), end)
        costs = cost[first] + (end - first) * length[end - 1] + tokens_per_batch
        best = costs.argmin()
        cost[end], begin[end] = costs[best], first[best]
    sizes: list[int] = []
    end = len(length)
    while end:
        sizes.append(int(end - begin[end]))
        end = int(begin[end])
    return sizes[::-1]


def tokens_per_pass(device: torch.device) -> int:
    """Returns what one more pass through a model costs on a device, in tokens."""
    return _TOKENS_PER_PASS.get(device.type, _TOKENS_PER_PASS_ELSEWHERE)


def _as_lists(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    return [prompt if isinstance(prompt, list) else list(prompt) for prompt in prompts]


def _num_equal(a: list[int], b: list[int]) -> int:
    """Returns at how many places from the first on two lists are the same, by bisection."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
