"""Policy objectives of GRPO and its relatives as pure functions of log-probabilities; all are losses to minimise.

Knows no model, sampler or reward. Every function takes a mask and never reads what lies outside it: log-probabilities
may be -inf or NaN there, and their gradients are 0. A loss is put together in three steps: terms of each token
(:func:`policy_terms` plus β times :func:`k3_kl`), then one of the normalisations, whose results belong to a question
each so that losses can be told apart by task, then a division by what the docstring of the normalisation says.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "PolicyTerms",
    "RatioLevel",
    "k3_kl",
    "mean_over_sequences",
    "policy_terms",
    "sum_over_constant",
    "sum_over_tokens",
]

RatioLevel = Literal["token", "sequence"]
"""Whether each token has a probability ratio of its own (PPO, GRPO) or an answer has one (GSPO)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyTerms:
    """What each token of each candidate adds to the policy loss."""

    loss: Float[Tensor, "B G L"]
    """Clipped surrogate with its sign turned; 0 where there is no token."""
    is_clipped: Bool[Tensor, "B G L"]
    """Whether the ratio ran out of its bounds in the direction that the advantage asks for: no gradient is left."""


def policy_terms(
    logprobs: Float[Tensor, "B G L"],
    old_logprobs: Float[Tensor, "B G L"],
    advantages: Float[Tensor, "B G"],
    is_token: Bool[Tensor, "B G L"],
    *,
    clip_low: float,
    clip_high: float,
    ratio: RatioLevel,
) -> PolicyTerms:
    """Returns −min(w Â, clip(w, 1 − ε_low, 1 + ε_high) Â) for each token, and where the bound was in force.

    With ``token``, w_t = π(y_t) / π_old(y_t): equation 3 of GRPO (arXiv 2402.03300), and its two bounds are "clip
    higher" of DAPO (arXiv 2503.14476, equation 10). With ``sequence``, w = (π(y) / π_old(y))^(1/|y|) for all
    tokens of an answer: equations 5 to 7 of GSPO (arXiv 2507.18071), whose bounds are of the order 3e-4.

    The ratio is not bounded where it moves against a negative advantage, as in PPO. Clipped tokens leave the graph
    before the exponential, so a ratio that overflows there makes no NaN.

    Args:
        logprobs: Log-probability of each token under the policy that learns.
        old_logprobs: The same under the policy that answered; ``logprobs.detach()`` when that is the very same one.
        advantages: Advantage of each candidate.
        is_token: Where candidates have tokens; False for all of a place without a candidate.
        clip_low: ε_low, from 0 to 1.
        clip_high: ε_high, at least 0.
        ratio: Whether tokens or answers have a ratio.
    """
    advantage = torch.where(is_token, advantages[..., None], 0.0)
    log_ratio = logprobs - old_logprobs
    if ratio == "sequence":
        log_ratio = _mean_of_tokens(log_ratio, is_token)[..., None].expand_as(log_ratio)
    weight = log_ratio.detach().exp()
    is_clipped = ((weight > 1 + clip_high) & (advantage > 0)) | ((weight < 1 - clip_low) & (advantage < 0))
    bound = weight.clamp(min=1 - clip_low, max=1 + clip_high)
    # What is clipped or masked or has no advantage may give inf or NaN, and 0 * inf = NaN in the backward pass.
    live_weight = torch.where(is_clipped | (advantage == 0), 0.0, log_ratio).exp()
    return PolicyTerms(loss=-advantage * torch.where(is_clipped, bound, live_weight), is_clipped=is_clipped)


def k3_kl(
    logprobs: Float[Tensor, "B G L"], ref_logprobs: Float[Tensor, "B G L"], is_token: Bool[Tensor, "B G L"]
) -> Float[Tensor, "B G L"]:
    """Returns k3 = π_ref/π − log(π_ref/π) − 1 for each token, an estimate of KL(π ‖ π_ref); 0 where there is none.

    Equation 4 of GRPO (arXiv 2402.03300). It is never negative and 0 only where both agree. For tokens drawn from π
    its mean is the divergence; its gradient, as in the paper, is that of KL(π_ref ‖ π). TRL multiplies it by the
    policy ratio unless ``use_bias_correction_kl`` is off (arXiv 2512.02556), which makes the gradient KL(π ‖ π_ref)'s.

    Args:
        logprobs: Log-probability of each token under the policy that learns.
        ref_logprobs: The same under the reference, over the same choices.
        is_token: Where candidates have tokens.
    """
    log_ratio = torch.where(is_token, ref_logprobs - logprobs, 0.0)
    return log_ratio.exp() - log_ratio - 1


def mean_over_sequences(
    values: Float[Tensor, "B G L"], is_token: Bool[Tensor, "B G L"], weight: Float[Tensor, "B G"]
) -> Float[Tensor, "B"]:
    """Returns Σ_i w_i (1/|y_i| Σ_t v_it) / Σ_i w_i for each question: every answer counts alike, however long.

    Equation 3 of GRPO (arXiv 2402.03300), also equation 5 of GSPO (arXiv 2507.18071). Divide the sum over questions
    by the number of questions of the step.

    Args:
        values: A term for each token.
        is_token: Where candidates have tokens.
        weight: Importance weight of each candidate: 1 for those that were sampled, 0 where there is none.
    """
    return (weight * _mean_of_tokens(values, is_token)).sum(dim=1) / _total(weight)


def sum_over_tokens(
    values: Float[Tensor, "B G L"], is_token: Bool[Tensor, "B G L"], weight: Float[Tensor, "B G"]
) -> Float[Tensor, "B"]:
    """Returns Σ_i w_i Σ_t v_it for each question: every token counts alike.

    Equation 12 of DAPO (arXiv 2503.14476). Divide the sum over questions by the number of tokens of the whole
    optimiser step, over all its micro-batches and processes; which is why the division is not done here.

    Args:
        values: A term for each token.
        is_token: Where candidates have tokens.
        weight: Importance weight of each candidate: 1 for those that were sampled, 0 where there is none.
    """
    return (weight * torch.where(is_token, values, 0.0).sum(dim=-1)).sum(dim=1)


def sum_over_constant(
    values: Float[Tensor, "B G L"], is_token: Bool[Tensor, "B G L"], weight: Float[Tensor, "B G"], max_length: int
) -> Float[Tensor, "B"]:
    """Returns Σ_i w_i Σ_t v_it / (max_length Σ_i w_i) for each question: length decides nothing.

    Dr. GRPO (arXiv 2503.20783, section 3.2 and listing 1). Divide the sum over questions by the number of
    questions of the step.

    Args:
        values: A term for each token.
        is_token: Where candidates have tokens.
        weight: Importance weight of each candidate: 1 for those that were sampled, 0 where there is none.
        max_length: The constant: the most tokens an answer can have.
    """
    return sum_over_tokens(values, is_token, weight) / (max_length * _total(weight))


def _mean_of_tokens(values: Tensor, is_token: Tensor) -> Tensor:
    return torch.where(is_token, values, 0.0).sum(dim=-1) / is_token.sum(dim=-1).clamp(min=1)


def _total(weight: Tensor) -> Tensor:
    """Returns the sum of weights of each question, 1 for a question without candidates."""
    total = weight.sum(dim=1)
    return torch.where(total > 0, total, 1.0)
