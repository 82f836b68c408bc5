"""Rewards that compare codes: exact match, shared prefix, and whether an answer could stand in a list.

Pure functions of the answers; they know no model and no vector.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itemic.train.rl.answers import Answers, closed_items, is_repeat, item_rows

__all__ = ["prefix", "rule", "well_formed", "well_formed_and_unseen"]


def rule(answers: Answers) -> Float[Tensor, "B G"]:
    """Returns 1 for a candidate on the leaf of a target, else 0 (R_rule of MiniOneRec, arXiv 2510.24431)."""
    return answers.is_hit.float()


def prefix(answers: Answers) -> Float[Tensor, "B G"]:
    """Returns the number of leading codes that a candidate shares with a target, divided by L; of the best target.

    The number is the depth of the lowest node above both leaves, so items on one shared leaf match in full. Where
    answers are titles, L is the tree's depth: what fills up a short title counts as codes of it.
    """
    trie = answers.tree.trie
    candidate_path, target_path = (
        torch.stack(trie.path(leaf)[1:], dim=-1) for leaf in (answers.leaf, answers.target_leaf)
    )
    is_same = candidate_path[:, :, None] == target_path[:, None]
    depth = is_same.sum(dim=-1) * (answers.target_leaf >= 0)[:, None]
    return torch.where(answers.is_candidate, depth.amax(dim=-1) / trie.num_levels, 0.0)


def well_formed(answers: Answers) -> Float[Tensor, "B G"]:
    """Returns 1 for a candidate that could stand in the group's list, else 0: the first one on its leaf.

    Constrained decoding gives legal answers only, so what can still be wrong is that there is no answer, or one that
    the group has already. The reward is 1 throughout where the sampler never repeats itself, as beams do not.
    """
    return _is_first(answers).float()


def well_formed_and_unseen(answers: Answers) -> Float[Tensor, "B G"]:
    """Returns ``well_formed``, and 0 also for a candidate that the user had before.

    For data without repeats, where a user's own items are never recommended. A leaf is ruled out when every item on it
    was seen, those that the prompt no longer tells of too; a target never is, as in the roll-out.
    """
    trie = answers.tree.trie
    closed = closed_items(answers.questions, [question.seen for question in answers.questions])
    closed_leaf = answers.tree.leaves(item_rows(closed, answers.leaf.device))
    num_closed = (answers.leaf[:, :, None] == closed_leaf[:, None]).sum(dim=-1)
    num_there = trie.num_items_below(trie.num_levels, answers.leaf.clamp(min=0))
    return (_is_first(answers) & (num_closed < num_there)).float()


def _is_first(answers: Answers) -> Bool[Tensor, "B G"]:
    return answers.is_candidate & ~is_repeat(answers.leaf)
