"""Preference losses as pure functions of the log-probabilities of whole answers: DPO and S-DPO.

Knows no model and not where the preferences come from. Rejected answers that are masked are never read: their
log-probabilities may be -inf or NaN, and their gradients are 0.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["dpo_loss", "sdpo_loss"]


def dpo_loss(
    chosen: Float[Tensor, "B"],
    rejected: Float[Tensor, "B N"],
    ref_chosen: Float[Tensor, "B"],
    ref_rejected: Float[Tensor, "B N"],
    is_rejected: Bool[Tensor, "B N"],
    beta: float,
) -> Float[Tensor, "B"]:
    """Returns the mean over a question's pairs of −log σ(β log π(y_w)/π_ref(y_w) − β log π(y_l)/π_ref(y_l)).

    Equation 7 of DPO (arXiv 2305.18290); every rejected answer makes a pair with the chosen one. A question without
    rejected answers has loss 0.

    Args:
        chosen: Log-probability of the preferred answer under the policy, summed over its tokens.
        rejected: The same of each answer that is less preferred.
        ref_chosen: Log-probability of the preferred answer under the reference.
        ref_rejected: The same of each answer that is less preferred.
        is_rejected: Where there is a rejected answer.
        beta: How dear it is to leave the reference.
    """
    lead = _lead_of_rejected(chosen, rejected, ref_chosen, ref_rejected, beta)
    losses = softplus(torch.where(is_rejected, lead, 0.0))
    return torch.where(is_rejected, losses, 0.0).sum(dim=1) / is_rejected.sum(dim=1).clamp(min=1)


def sdpo_loss(
    chosen: Float[Tensor, "B"],
    rejected: Float[Tensor, "B N"],
    ref_chosen: Float[Tensor, "B"],
    ref_rejected: Float[Tensor, "B N"],
    is_rejected: Bool[Tensor, "B N"],
    beta: float,
) -> Float[Tensor, "B"]:
    """Returns −log σ(−log Σ_l exp(β log π(y_l)/π_ref(y_l) − β log π(y_w)/π_ref(y_w))) for each question.

    Section 3.1 of S-DPO (arXiv 2406.09215), computed as what it equals: log(1 + Σ_l exp(...)), the cross-entropy of
    a softmax over the chosen answer and all rejected ones. With one rejected answer it is :func:`dpo_loss`. A
    question without rejected answers has loss 0.

    Args:
        chosen: Log-probability of the preferred answer under the policy, summed over its tokens.
        rejected: The same of each answer that is less preferred.
        ref_chosen: Log-probability of the preferred answer under the reference.
        ref_rejected: The same of each answer that is less preferred.
        is_rejected: Where there is a rejected answer.
        beta: How dear it is to leave the reference.
    """
    lead = _lead_of_rejected(chosen, rejected, ref_chosen, ref_rejected, beta)
    scores = torch.cat([lead.new_zeros(len(lead), 1), torch.where(is_rejected, lead, -torch.inf)], dim=1)
    # Not logsumexp: where leads are large, its gradient is taken from the rounded sum and is off by 1e-4 in float32.
    return -scores.log_softmax(dim=1)[:, 0]


def _lead_of_rejected(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """Returns how far each rejected answer's implicit reward is above that of the chosen one."""
    return beta * ((rejected - ref_rejected) - (chosen - ref_chosen)[:, None])
