"""Rewards that compare codes: exact match, shared prefix, and whether an answer could stand in a list.

Pure functions of the answers; they know no model and no vector.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.decode.trie import Trie
from itemic.train.rl.answers import Answers

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
    target = answers.tree.leaves(answers.target)
    candidate_paths, target_paths = _paths(trie, answers.leaf), _paths(trie, target)
    is_same = candidate_paths[:, :, None] == target_paths[:, None]
    depth = is_same.sum(dim=-1) * (target >= 0)[:, None]
    return torch.where(answers.is_candidate, depth.amax(dim=-1) / trie.num_levels, 0.0)


def well_formed(answers: Answers) -> Float[Tensor, "B G"]:
    """Returns 1 for a candidate that could stand in the group's list, else 0: the first one on its leaf.

    Constrained decoding gives legal answers only, so what can still be wrong is that there is no answer, or one that
    the group has already. The reward is 1 throughout where the sampler never repeats itself, as beams do not.
    """
    return _is_first(answers).float()


def well_formed_and_unseen(answers: Answers) -> Float[Tensor, "B G"]:
    """Returns ``well_formed``, and 0 also for a candidate that the question's history rules out.

    For data without repeats, where a user's own items are never recommended. A leaf is ruled out when every item on it
    is in the history.
    """
    trie = answers.tree.trie
    num_seen = (answers.leaf[:, :, None] == answers.tree.leaves(_histories(answers))[:, None]).sum(dim=-1)
    num_there = trie.num_items_below(trie.num_levels, answers.leaf.clamp(min=0))
    return (_is_first(answers) & (num_seen < num_there)).float()


def _paths(trie: Trie, leaf: Int[Tensor, "B n"]) -> Int[Tensor, "B n L"]:
    """Returns the node at depths L to 1 above each leaf; of no meaning for -1."""
    node = leaf.clamp(min=0).to(torch.int32).contiguous()
    nodes = [node]
    for depth in range(trie.num_levels - 1, 0, -1):
        node = torch.searchsorted(trie.child_start[depth], node, right=True, out_int32=True) - 1
        nodes.append(node)
    return torch.stack(nodes, dim=-1)


def _is_first(answers: Answers) -> Bool[Tensor, "B G"]:
    is_same = answers.leaf[:, :, None] == answers.leaf[:, None]
    return answers.is_candidate & ~is_same.tril(diagonal=-1).any(dim=-1)


def _histories(answers: Answers) -> Int[Tensor, "B H"]:
    """Returns the distinct items of each history, filled up with -1."""
    histories = [sorted(set(question.history)) for question in answers.questions]
    width = max(map(len, histories))
    rows = [[*history, *[-1] * (width - len(history))] for history in histories]
    return torch.tensor(rows, dtype=torch.int64, device=answers.leaf.device)
