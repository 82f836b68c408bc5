"""The way down the trie with a batch of prompts, one level at a time; every search over semantic IDs goes it.

The prompts fill the cache; then every level appends its live nodes to the same cache, one token a node, and a mask
lets a node see its prompt and its own ancestors only. So no beam has a cache of its own, nothing is re-ordered or
padded for one, and the head is asked for one level's codes. Where only legal codes share the probability, a node with
one leaf below it is settled: its leaf is certain, and its codes are not read; codes after which there is no choice yet
are read with those that follow. Knows which children there are and what they score, not which of them to take: that is
the search's (``beam``, ``stochastic``).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from itemic.core.errors import ConfigError
from itemic.decode.candidates import Candidates, Nodes, find_candidates
from itemic.decode.filters import ItemFilter
from itemic.decode.policy import Policy
from itemic.decode.prefill import PrefixMemory, PromptBatch, in_batches
from itemic.decode.scoring import VocabularyNormalizer, widen
from itemic.decode.trie import Trie, check_codebooks

__all__ = ["Normalization", "TreeWalker", "Walk", "check_normalization"]

Normalization = Literal["legal", "full"]

_WORTH_ASKING = 8
"""Levels from which on asking a device which nodes are settled pays, though it is waited for: titles have more."""


def check_normalization(normalize: Normalization) -> None:
    """Refuses a normalisation that there is not.

    Raises:
        ConfigError: naming those that there are.
    """
    if normalize not in get_args(Normalization):
        raise ConfigError(f"normalize {normalize!r}: expected legal or full")


class TreeWalker:
    """A model, a tree and a normalisation: whatever all walks share."""

    def __init__(
        self,
        policy: Policy,
        trie: Trie,
        normalize: Normalization,
        memory: PrefixMemory | None = None,
        *,
        level_ids: Sequence[Int[np.ndarray, "_"] | Int[Tensor, "_"]] | None = None,
    ) -> None:
        """Moves the tree to the model's device.

        Args:
            policy: The model, in evaluation mode.
            trie: The semantic IDs. A tree that lies elsewhere is copied for every walker.
            normalize: ``legal``: log p is over the codes that continue a semantic ID of the tree. ``full``: over the
                whole vocabulary, as the reference scores.
            memory: What prompts begin with, kept from earlier calls of the same model with the same weights; a new
                one where None.
            level_ids: For each level the token id of every code, for a tree of other answers than semantic IDs, titles
                say; the policy's semantic IDs where None. Tensors on the model's device are taken as they are.

        Raises:
            ConfigError: if the normalisation does not exist.
            CatalogError: if the policy speaks other codebooks than the tree's.
        """
        check_normalization(normalize)
        if level_ids is None:
            check_codebooks(policy.sid_tokens, trie)
            level_ids = policy.sid_tokens.level_ids
        self.policy = policy
        self.trie = trie.to(policy.device)
        self.memory = PrefixMemory(policy) if memory is None else memory
        self.vocabulary_normalizer = VocabularyNormalizer(policy) if normalize == "full" else None
        self.level_ids = [torch.as_tensor(ids, device=policy.device) for ids in level_ids]

    def read(self, prompts: Sequence[Sequence[int]]) -> PromptBatch:
        """Returns the prompts in a cache; each must end where a SID's first code follows."""
        return self.memory.read(prompts)

    def read_in_batches(
        self,
        prompts: Sequence[Sequence[int]],
        batch_size: int,
        search: Callable[[Int[Tensor, "b"], PromptBatch], tuple[Tensor, ...]],
        none: tuple[Tensor, ...],
        num_passes: int = 1,
    ) -> tuple[Tensor, ...]:
        """Returns what ``search`` gives for prompts that were read, put together in the prompts' order.

        What all prompts begin with is read once; batches are of prompts of like length.

        Args:
            prompts: Token ids.
            batch_size: Most prompts in one batch.
            search: From row numbers and those prompts to tensors with a row for each.
            none: The tensors where there is no prompt: those of ``search`` without rows.
            num_passes: Passes through the model for each batch, beside those for its levels.
        """
        if not len(prompts):
            return none
        self.memory.learn(prompts)

        def run(rows: Int[Tensor, "b"]) -> tuple[Tensor, ...]:
            return search(rows, self.read([prompts[row] for row in rows.tolist()]))

        shared = self.memory.num_shared(prompts)
        device = self.policy.device
        return in_batches(prompts, batch_size, run, num_shared=shared, device=device, num_passes=num_passes)

    def start(self, prompts: PromptBatch, allowed: ItemFilter | None = None) -> "Walk":
        """Returns a walk that stands at the root; its cache is the prompts' own, which it extends.

        Args:
            prompts: What the model has read.
            allowed: Items that each prompt may lead to, moved to the model's device where it is elsewhere; all where
                None.
        """
        return Walk(self, prompts, None if allowed is None else allowed.move_to(self.trie))


class Walk:
    """One batch of prompts on its way from the root to the leaves.

    A node with one leaf below it, or with no allowed one, is settled; the others are open. After each step one of three
    things holds:

    - The open nodes' codes were read: from the states after them their children are scored.
    - No open node has a choice of children: their codes are unread until there is one, and nothing is scored.
    - All nodes are settled: nothing is read or scored any more.

    Where it does not pay to find out which nodes are settled, all count as open, and each step reads.
    """

    def __init__(self, walker: TreeWalker, prompts: PromptBatch, allowed: ItemFilter | None) -> None:
        self._walker = walker
        self._allowed = allowed
        self._prompts = prompts
        self._cache: Any = prompts.cache
        self._hidden: Float[Tensor, "B R D"] = prompts.hidden[:, None]
        """States after the codes that were read last; those of the open nodes unless some codes are unread."""
        root = torch.zeros_like(prompts.length)[:, None]
        self._sees = torch.zeros(len(root), 1, 0, dtype=torch.bool, device=root.device)
        """Which appended tokens, those that are unread included, each open node sees."""
        self._column: Int[Tensor, "B W"] | None = None
        """Column of each node among the open ones, of no meaning for settled nodes; None where all count as open."""
        self._unread: list[tuple[Tensor, Tensor, Tensor]] = []
        """Codes that were taken but not read yet, level by level: ids, positions and what each sees."""
        self._is_settled = False
        self._dtype = widen(prompts.hidden[:0]).dtype
        is_cheap = root.device.type == "cpu" or walker.trie.num_levels >= _WORTH_ASKING
        self._skips_settled = is_cheap and walker.vocabulary_normalizer is None
        self.depth = 0
        self.nodes = Nodes(root, torch.zeros_like(root, dtype=self._dtype), num_items=root, parent=root)
        """Where the walk stands."""

    def candidates(self) -> Candidates:
        """Returns the children of the nodes it stands on, with their scores."""
        walker = self._walker
        normalizer = None if walker.vocabulary_normalizer is None else walker.vocabulary_normalizer(self._hidden)
        return find_candidates(walker.trie, self.depth, self.nodes, self._logits(), normalizer, self._allowed)

    def take(self, nodes: Nodes) -> None:
        """Goes to some of the candidates, one depth down; their codes are read unless their leaves are certain."""
        self.nodes = nodes
        self.depth += 1
        if self._is_settled:
            return
        trie = self._walker.trie
        parent = nodes.parent if self._column is None else self._column.gather(1, nodes.parent)
        node, self._column = nodes.node, None
        is_inner = self.depth < trie.num_levels
        if is_inner and self._skips_settled:
            place, self._column = _find_unsettled(trie, self.depth, nodes)
            node, parent = node.gather(1, place), parent.gather(1, place)
            self._is_settled = not node.shape[1]
        self._sees = _see_self_and_ancestors(self._sees, parent)
        if not is_inner or self._is_settled:
            return
        self._append_codes(node)
        if not self._skips_settled or bool((trie.num_children(self.depth, node) > 1).any()):
            self._read_codes()

    def ending_logprob(self, ending: Sequence[int]) -> Float[Tensor, "B W"]:
        """Returns log p of the tokens that an answer ends with after each of the leaves that the walk stands on.

        A leaf's code and its ending are read in one pass; the cache is then of no more use. With ``legal`` every
        token of the ending is its predecessor's only child, so that the answer is 0 and nothing is read.

        Args:
            ending: Token ids that follow every semantic ID, at least one.
        """
        walker, prompts, leaves = self._walker, self._prompts, self.nodes
        assert self.depth == walker.trie.num_levels, "only leaves have an ending"
        if walker.vocabulary_normalizer is None:
            return torch.zeros_like(leaves.logprob)
        (B, W), T, device = leaves.node.shape, len(ending), leaves.node.device
        level = self.depth - 1
        tokens = torch.tensor(list(ending), device=device)
        code = walker.level_ids[level][walker.trie.codes[level][leaves.node].long()]
        ids = torch.cat([code[..., None], tokens[:-1].expand(B, W, T - 1)], dim=-1).flatten(1)
        positions = (prompts.length[:, None] + level + torch.arange(T, device=device)).repeat(1, W)
        place = torch.arange(W * T, device=device)
        own = ((place[:, None] // T == place // T) & (place[:, None] >= place)).expand(B, -1, -1)
        ancestors = self._sees[..., :-W].repeat_interleave(T, dim=1)
        mask = torch.cat([prompts.is_token[:, None].expand(B, W * T, -1), ancestors, own], dim=-1)
        hidden, _ = walker.policy.hidden(ids, mask[:, None], positions, self._cache, use_cache=True)
        # (W, T, T): of every state the logits of all ending tokens, of which its own successor is wanted.
        logits = widen(walker.policy.logits(hidden, tokens)).view(B, W, T, T).diagonal(dim1=-2, dim2=-1)
        return (logits - walker.vocabulary_normalizer(hidden).view(B, W, T)).sum(dim=-1)

    def _logits(self) -> Float[Tensor, "B W K"]:
        """Returns the logits of the level's codes after each node; any numbers for a node with one child."""
        ids = self._walker.level_ids[self.depth]
        if self._is_settled or self._unread:
            zero = torch.zeros((), dtype=self._dtype, device=ids.device)
            return zero.expand(*self.nodes.node.shape, len(ids))
        logits = widen(self._walker.policy.logits(self._hidden, ids))
        if self._column is None:
            return logits
        return logits.gather(1, self._column[..., None].expand(-1, -1, len(ids)))

    def _append_codes(self, node: Int[Tensor, "B R"]) -> None:
        """Puts the last codes of nodes among those to be read."""
        level, walker = self.depth - 1, self._walker
        ids = walker.level_ids[level][walker.trie.codes[level][node].long()]
        positions = (self._prompts.length + level)[:, None].expand_as(ids)
        self._unread.append((ids, positions, self._sees))

    def _read_codes(self) -> None:
        """Appends what is unread to the cache and makes the hidden states after the last level's."""
        num_appended, num_nodes = self._sees.shape[-1], self._sees.shape[1]
        ids, positions = (torch.cat([level[which] for level in self._unread], dim=1) for which in (0, 1))
        sees = torch.cat([pad(level[2], (0, num_appended - level[2].shape[-1])) for level in self._unread], dim=1)
        mask = torch.cat([self._prompts.is_token[:, None].expand(-1, ids.shape[1], -1), sees], dim=-1)
        policy = self._walker.policy
        hidden, self._cache = policy.hidden(ids, mask[:, None], positions, self._cache, use_cache=True)
        self._hidden, self._unread = hidden[:, -num_nodes:], []


def _find_unsettled(trie: Trie, depth: int, nodes: Nodes) -> tuple[Int[Tensor, "B R"], Int[Tensor, "B W"]]:
    """Returns the places of the distinct nodes that must be read, and for each node its column among them.

    Neither settled nodes are nor those that lead to no allowed item. R is the largest number of a row's; what a
    shorter row lacks is filled up with its first node. It asks the device for R.
    """
    is_unsettled = (nodes.logprob > -torch.inf).logical_and_(~trie.has_one_leaf(depth, nodes.node))
    none = trie.num_nodes(depth)
    wanted, order = torch.where(is_unsettled, nodes.node, none).sort(dim=1)
    is_first = wanted < none
    is_first[:, 1:] &= wanted[:, 1:] != wanted[:, :-1]
    rank = is_first.cumsum(dim=1) - 1
    R = int(rank[:, -1].max()) + 1
    place = torch.zeros(len(order), R + 1, dtype=order.dtype, device=order.device)
    place.scatter_(1, torch.where(is_first, rank, R), order)
    return place[:, :R], torch.empty_like(order).scatter_(1, order, rank.clamp_(min=0))


def _see_self_and_ancestors(sees: Bool[Tensor, "B V T"], parent: Int[Tensor, "B W"]) -> Bool[Tensor, "B W U"]:
    """Returns which appended tokens each new node sees: those that its parent saw, and its own."""
    B, W = parent.shape
    inherited = sees.gather(1, parent[..., None].expand(B, W, sees.shape[-1]))
    own = torch.eye(W, dtype=torch.bool, device=parent.device).expand(B, W, W)
    return torch.cat([inherited, own], dim=-1)
