"""What is asked, what may be answered, and what was answered: the records that pass between the parts of RL.

A question carries its own targets from the data to the reward; nothing is ever looked up by text. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.ranking import Histories
from itemic.decode.filters import ItemFilter
from itemic.decode.trie import Trie
from itemic.language.spelling import SidTokens

__all__ = [
    "AnswerTree",
    "Answers",
    "Question",
    "Rollout",
    "allowed_items",
    "closed_items",
    "first_target",
    "is_among",
    "is_repeat",
    "item_rows",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A prompt, whom it is about and which items answer it."""

    task: int
    """Index of the task."""
    prompt: Sequence[int]
    """Token ids, ending where the answer's first code follows."""
    history: Sequence[int] = ()
    """Item indices that the prompt tells of, oldest first; empty where the question is about an item alone."""
    targets: Sequence[int]
    """Item indices that answer it, at least one: several where items share what was asked about, a title say."""
    seen: Sequence[int] = ()
    """All item indices that the user had before, those that the history was cut by too; the history where none is
    given."""

    def __post_init__(self) -> None:
        if not len(self.seen):
            object.__setattr__(self, "seen", self.history)


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
        """Returns the same tree with its trie on a device; itself where it lies there."""
        trie = self.trie.to(device)
        return self if trie is self.trie else replace(self, trie=trie)

    @classmethod
    def of_sids(cls, trie: Trie, sid_tokens: SidTokens) -> "AnswerTree":
        """Returns the tree of a catalog's semantic IDs."""
        return cls(trie=trie, level_ids=sid_tokens.level_ids)

    @cached_property
    def token_ids(self) -> tuple[Int[Tensor, "_"], ...]:
        """``level_ids`` where the trie lies."""
        return tuple(torch.from_numpy(ids).to(self.trie.item_of_slot.device) for ids in self.level_ids)

    def head_rows(self, num_levels: int) -> tuple[Int[Tensor, "n"], tuple[Int[Tensor, "_"], ...]]:
        """Returns the token ids of the first levels, each once, and for each level every code's place among them.

        The gradient of rows taken from the head is as large as the head, so they are taken once, not level by level.
        What was asked for before is kept: finding it takes as long as learning from a small batch.
        """
        if num_levels not in self._head_rows:
            level_ids = self.level_ids[:num_levels]
            token_ids, place = np.unique(np.concatenate(level_ids), return_inverse=True)
            device = self.trie.item_of_slot.device
            places = torch.split(torch.from_numpy(place).to(device), [len(ids) for ids in level_ids])
            self._head_rows[num_levels] = (torch.from_numpy(token_ids).to(device), tuple(places))
        return self._head_rows[num_levels]

    @cached_property
    def _head_rows(self) -> dict[int, tuple[Tensor, tuple[Tensor, ...]]]:
        return {}

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
    allowed: ItemFilter | None = None
    """What each question's answers may name, targets that were put in included; None where nothing was excluded."""

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

    @cached_property
    def is_candidate(self) -> Bool[Tensor, "B G"]:
        """Whether there is an answer."""
        return self.leaf >= 0

    @cached_property
    def item(self) -> Int[Tensor, "B G"]:
        """Item index of each candidate, the first one on a shared leaf; -1 for no candidate."""
        trie = self.tree.trie
        first, _ = trie.slots(trie.num_levels, self.leaf.clamp(min=0))
        return torch.where(self.is_candidate, trie.item_of_slot[first.long()].long(), -1)

    @cached_property
    def target(self) -> Int[Tensor, "B M"]:
        """Item indices that answer each question, filled up with -1."""
        return item_rows([question.targets for question in self.questions], self.leaf.device)

    @cached_property
    def target_leaf(self) -> Int[Tensor, "B M"]:
        """Leaves of the targets; -1 for no target and for one that is not in the tree."""
        return self.tree.leaves(self.target)

    @cached_property
    def is_hit(self) -> Bool[Tensor, "B G"]:
        """Whether a candidate is a target: on the same leaf as one of them."""
        return is_among(self.leaf, self.target_leaf)

    @cached_property
    def rank(self) -> Int[Tensor, "B G"]:
        """Place of each candidate among its group's by log-probability, 1 the likeliest; of ties the first comes first.

        Equal candidates (drawn twice) have places of their own. A target that was put in comes after all that were
        answered, no candidate after all that are.
        """
        order = self.logprob.argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, self.is_candidate.gather(1, order).int().argsort(dim=1, descending=True, stable=True))
        return order.argsort(dim=1) + 1


def item_rows(lists: Histories, device: torch.device) -> Int[Tensor, "B M"]:
    """Returns the item indices of each list in a row, filled up with -1."""
    width = max(map(len, lists), default=0)
    rows = [[*items, *[-1] * (width - len(items))] for items in lists]
    return torch.tensor(rows, dtype=torch.int64, device=device).view(len(lists), width)


def first_target(target_leaf: Int[Tensor, "B M"]) -> Int[Tensor, "B 1"]:
    """Returns the leaf of each question's first target that is in the tree; -1 where none is."""
    return target_leaf.gather(1, (target_leaf >= 0).int().argmax(dim=1, keepdim=True))


def is_among(leaf: Int[Tensor, "B G"], target_leaf: Int[Tensor, "B M"]) -> Bool[Tensor, "B G"]:
    """Returns whether each candidate is one of its question's targets; no candidate is."""
    return ((leaf[..., None] == target_leaf[:, None]) & (leaf >= 0)[..., None]).any(dim=-1)


def is_repeat(leaf: Int[Tensor, "B G"]) -> Bool[Tensor, "B G"]:
    """Returns whether the same leaf stands before in the row."""
    return (leaf[..., None] == leaf[:, None]).tril(diagonal=-1).any(dim=-1)


def closed_items(questions: Sequence[Question], exclude: Histories) -> list[list[int]]:
    """Returns which distinct items each question's answers may not name: those of ``exclude`` that are no target."""
    return [sorted(set(items).difference(each.targets)) for items, each in zip(exclude, questions, strict=True)]


def allowed_items(questions: Sequence[Question], tree: AnswerTree, exclude: Histories) -> ItemFilter:
    """Returns which items of the tree each question's answers may name: a target always, nothing else of ``exclude``.

    Args:
        questions: Whose targets stay open.
        tree: The tree of their answers.
        exclude: For each question item indices, ``seen`` say.

    Raises:
        DataError: if an item index is not in the catalogue.
    """
    return ItemFilter.from_lists(tree.trie, len(questions), exclude=closed_items(questions, exclude))
