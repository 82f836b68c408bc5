"""Two stages, "think, then recommend": free text until a stop, then the constrained search from the same cache.

Every prompt is read once, every thought is written into the prompt's cache, and the search goes on from there. Knows
tokens only: which ones frame a thought is told by ``ThoughtTokens``, which the renderer makes. Two-stage
roll-outs are those of OpenOneRec (arXiv 2512.24762), whose second stage is not constrained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError, DataError
from itemic.decode.beam import BeamResult, check_ending, no_beams, search_prompts
from itemic.decode.diversity import PrefixQuota
from itemic.decode.filters import ItemFilter
from itemic.decode.noise import hash_keys, uniform_noise, working_dtype
from itemic.decode.policy import Policy
from itemic.decode.prefill import PrefixMemory, PromptBatch, check_filter, check_numbers, check_prompts
from itemic.decode.scoring import widen
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization, TreeWalker
from itemic.language.thoughts import ThoughtTokens

__all__ = ["ThinkConfig", "Thoughts", "think", "think_then_recommend"]


@dataclass(frozen=True, kw_only=True)
class ThinkConfig:
    """How thoughts are written."""

    max_new_tokens: int = 1024
    """Longest thought in tokens, its stop included; 1,024 as in OpenOneRec's roll-outs. 0 thinks nothing."""
    temperature: float = 0.6
    """Divides the logits; 0 takes the likeliest token. 0.6 as Qwen3's authors recommend for thinking."""
    top_p: float = 0.95
    """Share of the probability that is drawn from, likeliest tokens first; 0.95 from the same source."""
    allows_sids: bool = False
    """Whether a thought may hold the tokens of semantic IDs. Nothing constrains them there: they may name no item."""
    seed: int = 0
    """Decides the draws, together with the prompt's row (or given number) and the place in the thought: not with the
    batch."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise ConfigError(f"max_new_tokens {self.max_new_tokens}: expected at least 0")
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature {self.temperature}: expected at least 0 and finite")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p {self.top_p}: expected more than 0 and at most 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Thoughts:
    """What a model wrote before it recommended."""

    tokens: Int[Tensor, "B T"]
    """Token ids of each thought without its stop, filled up with -1."""
    length: Int[Tensor, "B"]
    """Number of tokens of each thought."""
    is_complete: Bool[Tensor, "B"]
    """Whether the model ended the thought itself; elsewhere the budget did."""

    def lists(self) -> list[list[int]]:
        """Returns the token ids of each thought, for a tokenizer to decode."""
        return [row[:length] for row, length in zip(self.tokens.tolist(), self.length.tolist(), strict=True)]


@torch.no_grad()
def think_then_recommend(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    num_beams: int,
    frame: ThoughtTokens,
    config: ThinkConfig | None = None,
    normalize: Normalization = "legal",
    allowed: ItemFilter | None = None,
    *,
    batch_size: int = 16,
    memory: PrefixMemory | None = None,
    quota: PrefixQuota | None = None,
    rows: Sequence[int] | None = None,
    ending: Sequence[int] = (),
) -> tuple[Thoughts, BeamResult]:
    """Returns a thought for each prompt and the leaves of the search that goes on after it.

    A score is that of ``constrained_beam_search`` given prompt and thought; the thought's own probability is no part
    of it. Repeated prompts think differently, because rows draw differently.

    Args:
        policy: The model, in evaluation mode.
        prompts: Token ids, each ending where a thought's first token follows.
        trie: The semantic IDs; leaves of the result are its. For repeated calls ``trie.to(policy.device)``.
        num_beams: Width W of the search.
        frame: What ends a thought and leads over to the semantic ID.
        config: How thoughts are written.
        normalize: ``legal`` or ``full``.
        allowed: Items that each prompt may lead to, a filter made with ``trie``; all where None.
        batch_size: Most prompts in the cache at once. A batch is done when its longest thought is.
        memory: What prompts begin with, kept from earlier calls of this model with these weights; None shares within
            this call only.
        quota: At most so many items under one prefix, as in ``constrained_beam_search``.
        rows: For each prompt the number that its draws are made from; its place where None. A prompt that keeps its
            number is thought about alike in whatever call it comes.
        ending: Token ids that follow a semantic ID in every answer, as in ``constrained_beam_search``.

    Raises:
        ConfigError: if the width, batch size or normalisation does not exist, the stop could never be written, or the
            ending holds what is no token.
        DataError: if a prompt is empty, or the filter is of another tree or another number of prompts.
        CatalogError: if the policy speaks other codebooks than the tree's.
        ArtifactError: if the model returns NaN.
    """
    check_numbers(num_beams=num_beams, batch_size=batch_size)
    check_prompts(prompts, policy.vocabulary_size)
    check_filter(allowed, trie, len(prompts))
    check_ending(ending, policy)
    if rows is not None and len(rows) != len(prompts):
        raise DataError(f"rows has {len(rows)} numbers for {len(prompts)} prompts")
    number = torch.arange(len(prompts)) if rows is None else torch.tensor(rows, dtype=torch.long)
    config = config or ThinkConfig()
    walker = TreeWalker(policy, trie, normalize, memory)

    def run(rows: Int[Tensor, "b"], batch: PromptBatch) -> tuple[Tensor, ...]:
        thoughts, batch = think(policy, batch, frame, config, number.to(rows.device)[rows])
        missing = (0, config.max_new_tokens - thoughts.tokens.shape[1])
        tokens = torch.nn.functional.pad(thoughts.tokens, missing, value=-1)
        chosen = None if allowed is None else allowed.select(rows)
        beams = search_prompts(walker, batch, num_beams, chosen, quota, ending)
        return tokens, thoughts.length, thoughts.is_complete, *beams

    beams = no_beams(num_beams, policy.device)
    num_none = beams[2]
    none = (beams[0][:, :0], num_none, num_none.bool(), *beams)
    found = walker.read_in_batches(prompts, batch_size, run, none, num_passes=1 + config.max_new_tokens)
    tokens, length, is_complete, leaf, logprob, num_tied_beyond = found
    tokens = tokens[:, : int(length.max()) if len(length) else 0]
    return (
        Thoughts(tokens=tokens, length=length, is_complete=is_complete),
        BeamResult(leaf=leaf, logprob=logprob, num_tied_beyond=num_tied_beyond),
    )


@torch.no_grad()
def think(
    policy: Policy, prompts: PromptBatch, frame: ThoughtTokens, config: ThinkConfig, rows: Int[Tensor, "B"]
) -> tuple[Thoughts, PromptBatch]:
    """Returns the thoughts of one batch, and the batch read on to where a semantic ID's first code follows.

    Every step writes one token in every row whose thought is open. A row whose thought is over stays in the batch
    with a slot that nobody sees.

    Args:
        policy: The model, in evaluation mode.
        prompts: What it has read; its cache is extended.
        frame: What ends a thought and leads over to the semantic ID.
        config: How thoughts are written.
        rows: The number that each row's draws are made from.
    """
    rows = rows.to(policy.device)
    is_open = torch.ones_like(prompts.length, dtype=torch.bool)
    written = torch.full((len(rows), config.max_new_tokens), -1, dtype=torch.long, device=policy.device)
    length = torch.zeros_like(prompts.length)
    draw = _Draw(policy, frame, config)
    for step in range(config.max_new_tokens):
        token = draw(widen(policy.logits(prompts.hidden)), rows, step)
        written[:, step] = torch.where(is_open, token, -1)
        prompts = _read_on(policy, prompts, token[:, None], is_open[:, None])
        length = length + is_open
        is_open = is_open & ~_ends_with(written[:, : step + 1], frame.stop_ids)
        if not is_open.any():
            break
    length = length - ~is_open * len(frame.stop_ids)
    is_thought = torch.arange(config.max_new_tokens, device=policy.device) < length[:, None]
    thoughts = Thoughts(tokens=torch.where(is_thought, written, -1), length=length, is_complete=~is_open)
    return thoughts, _read_ending(policy, prompts, frame, is_open)


class _Draw:
    """Chooses the next token of each row."""

    def __init__(self, policy: Policy, frame: ThoughtTokens, config: ThinkConfig) -> None:
        self._config = config
        never = set(frame.never_ids)
        if not config.allows_sids:
            sids = policy.sid_tokens
            never.update(*(ids.tolist() for ids in sids.level_ids), sids.opening_ids, sids.closing_ids)
        if clash := never.intersection(frame.stop_ids):
            raise ConfigError(
                f"stop_ids {list(frame.stop_ids)}: no thought may hold {sorted(clash)}, so none could end"
            )
        self._never = torch.tensor(sorted(never), dtype=torch.long, device=policy.device)

    def __call__(self, logits: Float[Tensor, "B V"], rows: Int[Tensor, "B"], step: int) -> Int[Tensor, "B"]:
        """Returns one token a row; ``step`` is the place in the thought."""
        logits = logits.index_fill(1, self._never, -torch.inf)
        if self._config.temperature == 0:
            return logits.argmax(dim=1)
        dtype = working_dtype(logits.device)
        share = (logits / self._config.temperature).softmax(dim=1).to(dtype)
        share, token = share.sort(dim=1, descending=True, stable=True)
        reached = share.cumsum(dim=1)
        is_drawn_from = reached - share < self._config.top_p
        total = torch.where(is_drawn_from, reached, 0).amax(dim=1)
        point = uniform_noise(hash_keys(self._config.seed, rows, step), dtype) * total
        place = (reached <= point[:, None]).sum(dim=1, keepdim=True)
        return token.gather(1, place)[:, 0]


def _ends_with(written: Int[Tensor, "B t"], stop_ids: tuple[int, ...]) -> Bool[Tensor, "B"]:
    """Returns which rows end with the stop's tokens."""
    if written.shape[1] < len(stop_ids):
        return torch.zeros(len(written), dtype=torch.bool, device=written.device)
    return (written[:, -len(stop_ids) :] == torch.tensor(stop_ids, device=written.device)).all(dim=1)


def _read_ending(policy: Policy, prompts: PromptBatch, frame: ThoughtTokens, is_open: Bool[Tensor, "B"]) -> PromptBatch:
    """Returns the batch after the tokens that lead over; rows whose thought is still open get the stop before them."""
    then = torch.tensor(frame.then_ids, dtype=torch.long, device=is_open.device)
    forced = torch.tensor([*frame.stop_ids, *frame.then_ids], device=is_open.device)
    short = torch.nn.functional.pad(then, (0, len(frame.stop_ids)))
    ids = torch.where(is_open[:, None], forced, short)
    size = torch.where(is_open, len(forced), len(then))
    is_token = torch.arange(len(forced), device=is_open.device) < size[:, None]
    width = len(forced) if is_open.any() else len(then)
    return _read_on(policy, prompts, ids[:, :width], is_token[:, :width]) if width else prompts


def _read_on(policy: Policy, prompts: PromptBatch, ids: Int[Tensor, "B T"], is_new: Bool[Tensor, "B T"]) -> PromptBatch:
    """Returns the batch with T more slots in its cache, of which each row's first ones hold a token."""
    B, T = ids.shape
    slot = torch.arange(T, device=ids.device)
    is_causal = (slot <= slot[:, None]) & is_new[:, None, :]
    mask = torch.cat([prompts.is_token[:, None].expand(B, T, -1), is_causal], dim=-1)
    position = prompts.length[:, None] + slot
    hidden, cache = policy.hidden(ids, mask[:, None], position, prompts.cache, use_cache=True)
    num_new = is_new.sum(dim=1)
    last = hidden[torch.arange(B, device=ids.device), (num_new - 1).clamp(min=0)]
    return PromptBatch(
        torch.where((num_new > 0)[:, None], last, prompts.hidden),
        prompts.length + num_new,
        torch.cat([prompts.is_token, is_new], dim=1),
        cache,
    )
