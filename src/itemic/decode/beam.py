"""Beam search over the trie that reads each prompt once, whatever the number of beams.

The prompt fills the cache; then every level appends its beams to the same cache, one token a beam, and a mask lets a
beam see its prompt and its own ancestors only. So nothing is copied, re-ordered or padded for a beam, and the head is
asked for one level's codes. Knows no items' meaning, no prompts' text and no particular model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.errors import CatalogError, ConfigError, DataError
from itemic.decode.filters import ItemFilter
from itemic.decode.policy import Policy
from itemic.decode.scoring import VocabularyNormalizer, legal_normalizer, widen
from itemic.decode.trie import Trie

__all__ = ["BeamResult", "Normalization", "constrained_beam_search"]

Normalization = Literal["legal", "full"]


@dataclass(frozen=True, kw_only=True, eq=False)
class BeamResult:
    """The best leaves for each prompt, best first.

    Where the tree or the filter holds fewer than W leaves, a row ends in leaf -1 with log-probability -inf.
    """

    leaf: Int[Tensor, "B W"]
    """Leaves of the trie."""
    logprob: Float[Tensor, "B W"]
    """Sum of the log-probabilities of a leaf's codes."""
    num_tied_beyond: Int[Tensor, "B"]
    """Number of allowed items on leaves that were scored, lie beyond the W listed ones and tie with the last."""


@torch.no_grad()
def constrained_beam_search(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    num_beams: int,
    normalize: Normalization = "legal",
    allowed: ItemFilter | None = None,
    *,
    batch_size: int = 16,
) -> BeamResult:
    """Returns the leaves that a beam search of width ``num_beams`` reaches for each prompt.

    A leaf's score is Σ_l log p(code_l | prompt, codes before l), where p is the softmax over the codes that continue
    a semantic ID of the tree (``legal``) or over the whole vocabulary (``full``, the reference behaviour). There is
    no length normalisation. A filter closes nodes and leaves every score as it is, so that the list under a filter is
    the list without it minus what it forbids, wherever the beams cover the level. Each level keeps the best
    ``num_beams`` open nodes: exact where that covers all of them, and never short of items that are there.

    Args:
        policy: The model, in evaluation mode.
        prompts: Token ids, each ending where a SID's first code follows (after the opening token, if it has one).
        trie: The semantic IDs; leaves of the result are its.
        num_beams: Width W.
        normalize: ``legal`` or ``full``.
        allowed: Items that each prompt may lead to; all where None.
        batch_size: Prompts in the cache at once; prompts of like length are put together.

    Raises:
        ConfigError: if the width, batch size or normalisation does not exist.
        DataError: if a prompt is empty.
        CatalogError: if the policy speaks other codebooks than the tree's.
    """
    _check_arguments(policy, prompts, trie, num_beams, normalize, batch_size)
    search = _Search(policy, trie.to(policy.device), num_beams, normalize)
    order = torch.tensor(np.argsort([len(prompt) for prompt in prompts], kind="stable"), dtype=torch.long)
    results = [
        search.run([prompts[row] for row in rows.tolist()], None if allowed is None else allowed.select(rows))
        for rows in torch.split(order, batch_size)
        if len(rows)
    ]
    if not results:
        empty = torch.zeros(0, num_beams, device=policy.device)
        return BeamResult(leaf=empty.long(), logprob=empty, num_tied_beyond=empty[:, 0].long())
    back = order.argsort().to(policy.device)
    return BeamResult(
        leaf=torch.cat([result.leaf for result in results])[back],
        logprob=torch.cat([result.logprob for result in results])[back],
        num_tied_beyond=torch.cat([result.num_tied_beyond for result in results])[back],
    )


def _check_arguments(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    num_beams: int,
    normalize: Normalization,
    batch_size: int,
) -> None:
    if normalize not in ("legal", "full"):
        raise ConfigError(f"normalize {normalize!r}: expected legal or full")
    for name, value in (("num_beams", num_beams), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, found {value}")
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise DataError(f"prompt {row} is empty; expected at least one token")
    spoken = policy.sid_tokens.spelling.codebook_sizes
    if spoken != trie.codebook_sizes:
        raise CatalogError(f"the model speaks codebooks of {spoken} codes, the catalog has {trie.codebook_sizes}")


@dataclass(frozen=True, eq=False)
class _Prompts:
    """A batch of prompts in a cache, filled up on the right."""

    length: Int[Tensor, "B"]
    is_token: Bool[Tensor, "B S"]


@dataclass(frozen=True, eq=False)
class _Beams:
    """The W live nodes of one depth for each prompt, best first."""

    node: Int[Tensor, "B W"]
    score: Float[Tensor, "B W"]
    num_items: Int[Tensor, "B W"]
    """Number of allowed items below a node."""
    parent: Int[Tensor, "B W"]
    """Column, one depth above, that a node continues."""


@dataclass(frozen=True, eq=False)
class _Candidates:
    """The children of a depth's beams, C columns for each beam."""

    node: Int[Tensor, "B W C"]
    score: Float[Tensor, "B W C"]
    """-inf for a column that is no child or leads to no allowed item."""
    num_items: Int[Tensor, "B W C"]
    """Number of allowed items below a node."""

    def best(self, width: int) -> _Beams:
        """Returns the ``width`` best ones."""
        score, place = self.score.flatten(1).topk(width, dim=1)
        node, num_items = (column.flatten(1).gather(1, place) for column in (self.node, self.num_items))
        return _Beams(node, score, num_items, parent=place // self.node.shape[-1])

    def num_tied_beyond(self, beams: _Beams) -> Int[Tensor, "B"]:
        """Returns the number of items on candidates that tie with the last of ``beams`` and are not among them."""
        last = beams.score[:, -1:]
        num_tied = torch.where(self.score == last[..., None], self.num_items, 0).sum(dim=(1, 2))
        num_listed = torch.where(beams.score == last, beams.num_items, 0).sum(dim=1)
        return torch.where(last[:, 0] > -torch.inf, num_tied - num_listed, 0)


class _Search:
    """One width and normalisation over one tree."""

    def __init__(self, policy: Policy, trie: Trie, num_beams: int, normalize: Normalization) -> None:
        self.policy = policy
        self.trie = trie
        self.num_beams = num_beams
        self.vocabulary_normalizer = VocabularyNormalizer(policy) if normalize == "full" else None
        self.level_ids = [torch.from_numpy(ids).to(policy.device) for ids in policy.sid_tokens.level_ids]

    def run(self, prompts: Sequence[Sequence[int]], allowed: ItemFilter | None) -> BeamResult:
        """Returns the best leaves of one batch."""
        batch, hidden, cache = self._prefill(prompts)
        root = torch.zeros(len(prompts), 1, dtype=torch.long, device=self.policy.device)
        beams = _Beams(root, torch.zeros_like(root, dtype=widen(hidden).dtype), num_items=root, parent=root)
        seen = torch.zeros(len(prompts), 1, 0, dtype=torch.bool, device=self.policy.device)
        for depth in range(self.trie.num_levels):
            if depth > 0:
                seen = _see_self_and_ancestors(seen, beams.parent)
                hidden, cache = self._step(batch, depth, beams.node, seen, cache)
            candidates = self._expand(depth, hidden, beams, allowed)
            beams = candidates.best(min(self.num_beams, self.trie.num_nodes(depth + 1)))
        missing = (0, self.num_beams - beams.node.shape[1])
        leaf = beams.node.masked_fill(beams.score == -torch.inf, -1)
        return BeamResult(
            leaf=torch.nn.functional.pad(leaf, missing, value=-1),
            logprob=torch.nn.functional.pad(beams.score, missing, value=-torch.inf),
            num_tied_beyond=candidates.num_tied_beyond(beams),
        )

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[_Prompts, Float[Tensor, "B 1 D"], Any]:
        """Returns the batch, the hidden state at each prompt's end, and the cache of all of them."""
        device = self.policy.device
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=device)
        length = torch.tensor(lengths, device=device)
        position = torch.arange(width, device=device)
        is_token = position < length[:, None]
        mask = is_token[:, None, None, :] & (position <= position[:, None])
        hidden, cache = self.policy.hidden(ids, mask, position.expand_as(ids), None, use_cache=True)
        last = hidden[torch.arange(len(prompts), device=device), length - 1]
        return _Prompts(length, is_token), last[:, None], cache

    def _step(
        self, batch: _Prompts, depth: int, node: Int[Tensor, "B W"], seen: Bool[Tensor, "B W T"], cache: Any
    ) -> tuple[Float[Tensor, "B W D"], Any]:
        """Returns the hidden state at each beam's last code, which joins the cache."""
        B, W = node.shape
        ids = self.level_ids[depth - 1][self.trie.codes[depth - 1][node].long()]
        positions = (batch.length + depth - 1)[:, None].expand(B, W)
        mask = torch.cat([batch.is_token[:, None].expand(B, W, -1), seen], dim=-1)
        return self.policy.hidden(ids, mask[:, None], positions, cache, use_cache=True)

    def _expand(
        self, depth: int, hidden: Float[Tensor, "B W D"], beams: _Beams, allowed: ItemFilter | None
    ) -> _Candidates:
        """Returns the children of the live nodes with their scores."""
        node, is_child = self.trie.children(depth, beams.node)
        logits = widen(self.policy.logits(hidden, self.level_ids[depth]))
        child_logits = logits.gather(-1, self.trie.codes[depth][node].long())
        if self.vocabulary_normalizer is None:
            normalizer = legal_normalizer(child_logits, is_child)
        else:
            normalizer = self.vocabulary_normalizer(hidden)
        first, last = self.trie.slots(depth + 1, node)
        num_items = last - first if allowed is None else allowed.num_allowed(first, last)
        num_items = num_items * is_child
        score = beams.score[..., None] + (child_logits - normalizer[..., None])
        return _Candidates(node, score.masked_fill(num_items == 0, -torch.inf), num_items)


def _see_self_and_ancestors(seen: Bool[Tensor, "B V T"], parent: Int[Tensor, "B W"]) -> Bool[Tensor, "B W U"]:
    """Returns which appended tokens each new beam sees: those that its parent saw, and its own."""
    B, W = parent.shape
    inherited = seen.gather(1, parent[..., None].expand(B, W, seen.shape[-1]))
    own = torch.eye(W, dtype=torch.bool, device=parent.device).expand(B, W, W)
    return torch.cat([inherited, own], dim=-1)
