"""Rank-aware rewards: a miss costs the more, the likelier the policy held it; pure functions of the answers.

With ``rule`` beside one of them (weights 1 and 1) they make the hybrid reward of MiniOneRec.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from itemic.train.rl.answers import Answers

__all__ = ["rank", "rank_if_hit"]


def rank(answers: Answers) -> Float[Tensor, "B G"]:
    """Returns 0 for a hit and each miss's share of a penalty of 1, in every group.

        R_rank = -(1 / log(rho + 1)) / sum_j (1 / log(rho_j + 1))        (MiniOneRec, arXiv 2510.24431)

    with rho = 1 for the likeliest candidate and j over all candidates of the group, hits among them: the share of a
    hit is not handed on to the misses. In a group without a hit the rewards sum to -1; one that only hits gets 0.

    The reference's code counts places from 0 and writes log2(i + 2), which is the same: i + 2 = rho + 1, and the base
    cancels. Ours differs where a place is not a column: candidates are ranked by their log-probability under the
    policy that answered, not by the order of their generation, and the sum runs over the candidates that there are.
    """
    weight = torch.where(answers.is_candidate, 1 / torch.log1p(answers.rank.float()), 0.0)
    share = weight / weight.sum(dim=1, keepdim=True)
    return torch.where(answers.is_candidate & ~answers.is_hit, -share, 0.0)


def rank_if_hit(answers: Answers) -> Float[Tensor, "B G"]:
    """Returns ``rank`` in groups where some candidate hits, and 0 for all candidates of the others.

    That is what the reference's code does, where its paper penalises misses in every group. A group without a hit has
    equal rewards then, no advantage and no part in the update.
    """
    return torch.where(answers.is_hit.any(dim=1, keepdim=True), rank(answers), 0.0)
