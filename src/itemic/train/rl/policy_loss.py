"""The module that the loop trains: from packed answers to the sum of losses of each task, GRPO's or a preference's.

Knows no roll-out and no reward: what was answered and how it was judged comes with the batch.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from itemic.model.sid_model import SidModel
from itemic.train.losses import sum_by_task
from itemic.train.rl.answers import AnswerTree
from itemic.train.rl.candidate_tree import CandidateTree, candidate_logprobs
from itemic.train.rl.config import GrpoConfig, RlConfig
from itemic.train.rl.figures import masked_mean
from itemic.train.rl.objectives import k3_kl, mean_over_sequences, policy_terms, sum_over_constant, sum_over_tokens
from itemic.train.rl.preferences import dpo_loss, sdpo_loss

__all__ = ["JudgedBatch", "PolicyLoss", "QuestionLoss", "grpo_loss", "objective_of", "preference_loss"]

Figures = dict[str, Tensor]
"""Figures of a batch by name, each a scalar without gradient."""


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedBatch:
    """B questions with their G answers, packed and judged."""

    rows: CandidateTree
    answers: AnswerTree
    leaf: Int[Tensor, "B G"]
    """Leaf of each answer; -1 where there is none."""
    task: Int[Tensor, "B"]
    """Task of each question."""
    advantages: Float[Tensor, "B G"]
    """How much better an answer is than the group's; in preferences what is not read."""
    weight: Float[Tensor, "B G"]
    """Importance weight of each answer; 0 where there is none."""
    old_logprobs: Float[Tensor, "B G L"] | None
    """Log-probabilities under the policy that answered; None where that is the policy that learns."""
    ref_logprobs: Float[Tensor, "B G L"] | None
    """Log-probabilities under the reference; None where there is none."""
    tokens_per_question: Float[Tensor, ""] | float = 1.0
    """Tokens of all answers of the optimiser step, over its number of questions; read by ``normalize: token``."""

    @property
    def num_answer_tokens(self) -> Int[Tensor, ""]:
        """Tokens of all answers."""
        return self.rows.is_token.sum()


QuestionLoss = Callable[[Float[Tensor, "B G L"], JudgedBatch], tuple[Float[Tensor, "B"], Figures]]
"""From log-probabilities under the policy that learns to the loss of each question, and figures."""


class PolicyLoss(nn.Module):
    """Sum of the questions' losses, by task; logits are computed only where an answer has a choice."""

    def __init__(
        self,
        model: SidModel,
        num_tasks: int,
        question_loss: QuestionLoss,
        temperature: float,
        record: Callable[[Mapping[str, Tensor]], None],
    ) -> None:
        """Wraps a model.

        Args:
            model: Its network becomes this module's only child, so these parameters are the network's.
            num_tasks: Number of tasks whose losses are told apart.
            question_loss: The loss of each question.
            temperature: Of the roll-out, so that the policy that learns is the one that answered.
            record: Takes the figures of each batch.
        """
        super().__init__()
        self.network = model.network
        self._logprobs = functools.partial(candidate_logprobs, model, temperature=temperature)
        self._num_tasks, self._question_loss, self._record = num_tasks, question_loss, record

    def forward(self, batch: JudgedBatch) -> Float[Tensor, "num_tasks"]:
        """Returns the sums for a batch."""
        logprobs, entropy = self._logprobs(batch.rows, batch.answers)
        loss, figures = self._question_loss(logprobs, batch)
        self._record({"entropy": masked_mean(entropy, batch.rows.is_token), **figures})
        return sum_by_task(loss, batch.task, self._num_tasks)


def objective_of(config: RlConfig) -> QuestionLoss:
    """Returns the loss that the config asks for."""
    if config.objective == "grpo":
        return lambda logprobs, batch: grpo_loss(logprobs, batch, config.grpo)
    beta = config.preference.beta
    loss = dpo_loss if config.objective == "dpo" else sdpo_loss
    return lambda logprobs, batch: preference_loss(logprobs, batch, loss, beta)


def grpo_loss(
    logprobs: Float[Tensor, "B G L"], batch: JudgedBatch, config: GrpoConfig
) -> tuple[Float[Tensor, "B"], Figures]:
    """Returns each question's clipped policy loss plus β times the divergence from the reference, and figures.

    Sums over the questions of an optimiser step, divided by their number, are the loss of the step.

    Args:
        logprobs: Under the policy that learns.
        batch: What was answered.
        config: Bounds, ratio, normalisation, β.
    """
    is_token = batch.rows.is_token
    old_logprobs = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    terms = policy_terms(
        logprobs,
        old_logprobs,
        batch.advantages,
        is_token,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        ratio=config.ratio,
    )
    loss, figures = terms.loss, {"clip_fraction": masked_mean(terms.is_clipped.to(logprobs.dtype), is_token)}
    if batch.ref_logprobs is not None:
        kl = k3_kl(logprobs, batch.ref_logprobs, is_token)
        loss = loss + config.beta * kl
        figures["kl"] = masked_mean(kl, is_token)
    if config.normalize == "sequence":
        return mean_over_sequences(loss, is_token, batch.weight), figures
    if config.normalize == "constant":
        return sum_over_constant(loss, is_token, batch.weight, is_token.shape[-1]), figures
    return sum_over_tokens(loss, is_token, batch.weight) / batch.tokens_per_question, figures


def preference_loss(
    logprobs: Float[Tensor, "B G L"], batch: JudgedBatch, loss: Callable[..., Float[Tensor, "B"]], beta: float
) -> tuple[Float[Tensor, "B"], Figures]:
    """Returns each question's preference loss, and figures; the first answer is the preferred one.

    Args:
        logprobs: Under the policy that learns.
        batch: What is preferred to what.
        loss: ``dpo_loss`` or ``sdpo_loss``.
        beta: How dear it is to leave the reference.
    """
    assert batch.ref_logprobs is not None
    is_token = batch.rows.is_token
    policy, reference = (torch.where(is_token, each, 0.0).sum(dim=-1) for each in (logprobs, batch.ref_logprobs))
    is_rejected = is_token[:, 1:].any(dim=-1)
    losses = loss(policy[:, 0], policy[:, 1:], reference[:, 0], reference[:, 1:], is_rejected, beta)
    lead = (beta * (policy - reference)).detach()
    margin = lead[:, :1] - lead[:, 1:]
    figures = {
        "margin": masked_mean(margin, is_rejected),
        "accuracy": masked_mean((margin > 0).to(lead.dtype), is_rejected),
    }
    return losses, figures
