"""What is asked, what may be answered, and what was answered: the records that pass between the parts of RL.

A question carries its own targets from the data to the reward; nothing is ever looked up by text. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.decode.trie import Trie
from itemic.language.spelling import SidTokens

__all__ = ["AnswerTree", "Answers", "Question", "Rollout"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A prompt, whom it is about and which items answer it."""

    task: int
    """Index of the task."""
    prompt: Sequence[int]
    """Token ids, ending where the answer's first code follows."""
    history: Sequence[int] = ()
    """Item indices that the user had, oldest first; empty where the question is about an item alone."""
    targets: Sequence[int]
    """Item indices that answer it, at least one: several where items share what was asked about, a title say."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerTree:
    """All legal answers of a task: the catalog's semantic IDs, or the titles of its items."""

    trie: Trie
    """The answers, item by item."""
    level_ids: tuple[Int[np.ndarray, "_"], ...]
    """For each level the token id of every code."""
    is_padded: bool = False
    """Whether answers are filled up to one length: codes that follow where only one answer is left are no tokens."""

    def to(self, device: torch.device) -> "AnswerTree":
        """Returns the same tree with its trie on a device."""
        return replace(self, trie=self.trie.to(device))

    @classmethod
    def of_sids(cls, trie: Trie, sid_tokens: SidTokens) -> "AnswerTree":
        """Returns the tree of a catalog's semantic IDs."""
        return cls(trie=trie, level_ids=sid_tokens.level_ids)

    def leaves(self, items: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Returns the leaf of each item index; -1 for -1 and for items that are not in the tree."""
        trie = self.trie
        slot = torch.where(items >= 0, trie.slot_of_item[items.clamp(min=0).long()].long(), -1)
        if not trie.is_shared:
            return slot
        leaf = torch.searchsorted(trie.slot_start[trie.num_levels], slot.to(torch.int32), right=True) - 1
        return torch.where(slot >= 0, leaf, -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """G candidate answers to each of B questions, in the order of the sampler: beams best first."""

    leaf: Int[Tensor, "B G"]
    """Leaves of the answer tree; -1 where there are fewer candidates."""
    logprob: Float[Tensor, "B G"]
    """Log-probability of each answer under the distribution that was sampled; -inf for no candidate."""
    weight: Float[Tensor, "B G"]
    """Importance weight of each candidate in its group: they sum to the number of candidates; 0 for none."""
    is_added: Bool[Tensor, "B G"]
    """Whether the candidate was put in (a target that the policy did not find) rather than sampled."""

    @property
    def is_candidate(self) -> Bool[Tensor, "B G"]:
        """Whether there is an answer."""
        return self.leaf >= 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What a reward sees: B questions with G candidates each, on one device."""

    questions: Sequence[Question]
    """The B questions."""
    tree: AnswerTree
    leaf: Int[Tensor, "B G"]
    """Leaf of each candidate; -1 where there is none."""
    logprob: Float[Tensor, "B G"]
    """Log-probability of each candidate under the policy that answered; -inf for none."""

    @property
    def is_candidate(self) -> Bool[Tensor, "B G"]:
        """Whether there is an answer."""
        return self.leaf >= 0

    @property
    def item(self) -> Int[Tensor, "B G"]:
        """Item index of each candidate, the first one on a shared leaf; -1 for no candidate."""
        trie = self.tree.trie
        first, _ = trie.slots(trie.num_levels, self.leaf.clamp(min=0))
        return torch.where(self.is_candidate, trie.item_of_slot[first.long()].long(), -1)

    @property
    def target(self) -> Int[Tensor, "B M"]:
        """Item indices that answer each question, filled up with -1."""
        width = max(len(question.targets) for question in self.questions)
        rows = [[*question.targets, *[-1] * (width - len(question.targets))] for question in self.questions]
        return torch.tensor(rows, dtype=torch.int64, device=self.leaf.device)

    @property
    def is_hit(self) -> Bool[Tensor, "B G"]:
        """Whether a candidate is a target: on the same leaf as one of them."""
        target_leaf = self.tree.leaves(self.target)
        return ((self.leaf[..., None] == target_leaf[:, None]) & self.is_candidate[..., None]).any(dim=-1)

    @property
    def rank(self) -> Int[Tensor, "B G"]:
        """Place of each candidate among its group's by log-probability, 1 the likeliest; of ties the first comes first.

        Equal candidates (drawn twice) have places of their own; no candidate comes after all that are.
        """
        order = self.logprob.masked_fill(~self.is_candidate, -torch.inf).argsort(dim=1, descending=True, stable=True)
        return order.argsort(dim=1) + 1
