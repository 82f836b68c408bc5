"""From questions to batches to learn from: the policy answers, rewards judge, log-probabilities are kept.

Knows no loop and no loss. Policies must be in evaluation mode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.core.seeds import derive_rng, derive_seed
from itemic.decode.filters import ItemFilter
from itemic.decode.prefill import PrefixMemory
from itemic.model.sid_model import SidModel
from itemic.train.rl.advantages import group_advantages, has_equal_rewards
from itemic.train.rl.answers import Answers, AnswerTree, Question, Rollout, allowed_items, first_target
from itemic.train.rl.candidate_tree import candidate_logprobs, pack_candidates
from itemic.train.rl.config import RlConfig
from itemic.train.rl.figures import RunningFigures, masked_mean
from itemic.train.rl.policy_loss import JudgedBatch
from itemic.train.rl.reference import Reference
from itemic.train.rl.rewards.registry import sum_rewards
from itemic.train.rl.rewards.sources import Reward
from itemic.train.rl.rollout import group_diversity, roll_out

__all__ = ["Judge"]

_KEPT = ("leaf", "advantages", "weight", "old_logprobs", "ref_logprobs")


class Judge:
    """Answers by one policy, judged by one set of rewards or by the targets alone."""

    def __init__(
        self,
        policy: SidModel,
        config: RlConfig,
        *,
        rewards: Mapping[str, Reward],
        reference: Reference | None,
        excludes_history: bool,
        figures: RunningFigures,
        seed: int,
    ) -> None:
        """Keeps what judging takes.

        Args:
            policy: The model.
            config: How answers are found and judged.
            rewards: From ``make_rewards``; not asked by preference losses.
            reference: What the policy is held to; None where nothing does.
            excludes_history: Whether items that the user had before are no candidates and have no share of the
                probability; negatives that are drawn uniformly come from all items all the same.
            figures: Takes the figures of every roll-out.
            seed: Of the draws.
        """
        self._policy, self._config, self._rewards, self._reference = policy, config, rewards, reference
        self._figures, self._seed = figures, seed
        is_asked = config.objective == "grpo" or config.preference.negatives == "policy"
        self._excludes_seen = excludes_history and is_asked

    @torch.no_grad()
    def answer_and_judge(
        self, parts: Sequence[Sequence[Question]], trees: Sequence[AnswerTree], number: int
    ) -> list[JudgedBatch]:
        """Returns a batch for each part of a roll-out.

        Args:
            parts: The questions of each micro-batch.
            trees: In which each of them is answered.
            number: Of the roll-out; draws depend on it.
        """
        memory = PrefixMemory(self._policy)
        batches, first_row = [], 0
        for questions, tree in zip(parts, trees, strict=True):
            asked = (questions, tree, number, first_row, memory)
            packed = self._answer(*asked) if self._config.objective == "grpo" else self._prefer(*asked)
            batches.append(self._with_logprobs(packed))
            first_row += len(questions)
        return batches

    def state(self, batches: Sequence[JudgedBatch]) -> dict[str, Tensor]:
        """Returns what a checkpoint must hold of a roll-out."""
        kept = {f"{part}.{name}": getattr(batch, name) for part, batch in enumerate(batches) for name in _KEPT}
        return {f"judged.{name}": value for name, value in kept.items() if value is not None}

    def restore(
        self, parts: Sequence[Sequence[Question]], trees: Sequence[AnswerTree], state: Mapping[str, Tensor]
    ) -> list[JudgedBatch]:
        """Returns the batches of which ``state`` kept the answers, their questions asked again."""
        batches = []
        for part, (questions, tree) in enumerate(zip(parts, trees, strict=True)):
            names = {name: f"judged.{part}.{name}" for name in _KEPT}
            kept = {name: state[key].to(self._policy.device) for name, key in names.items() if key in state}
            batches.append(self._packed(questions, tree, self._allowed(questions, tree), **kept))
        return batches

    def _answer(
        self, questions: Sequence[Question], tree: AnswerTree, number: int, first_row: int, memory: PrefixMemory
    ) -> JudgedBatch:
        """Returns the policy's answers with their importance weights and advantages."""
        rollout = self._roll_out(questions, tree, number, first_row, memory)
        answers = Answers(questions=questions, tree=tree, leaf=rollout.leaf, logprob=rollout.logprob)
        total, components = sum_rewards(self._rewards, self._config.rewards, answers)
        there = rollout.is_candidate
        own = there & ~rollout.is_added
        self._figures.add(
            {
                "reward": masked_mean(total, own),
                **{f"reward/{name}": masked_mean(values, own) for name, values in components.items()},
                "hit_share": (answers.is_hit & ~rollout.is_added).any(dim=1).float().mean(),
                "zero_variance": has_equal_rewards(total, there).float().mean(),
                "distinct": group_diversity(rollout.leaf).mean(),
            }
        )
        advantages = group_advantages(total, there, self._config.grpo.advantages)
        return self._packed(questions, tree, rollout.allowed, rollout.leaf, advantages, rollout.weight)

    def _prefer(
        self, questions: Sequence[Question], tree: AnswerTree, number: int, first_row: int, memory: PrefixMemory
    ) -> JudgedBatch:
        """Returns a target for each question, then items that are none, -1 for what turned out to be one."""
        preference = self._config.preference
        allowed = None
        if preference.negatives == "policy":
            rollout = self._roll_out(questions, tree, number, first_row, memory)
            others, allowed = rollout.leaf, rollout.allowed
        else:
            rng = derive_rng(self._seed, "negatives", number, first_row)
            drawn = rng.integers(tree.trie.num_leaves, size=(len(questions), preference.num_negatives))
            others = torch.from_numpy(drawn).to(self._policy.device)
        answers = Answers(
            questions=questions, tree=tree, leaf=others, logprob=torch.zeros_like(others, dtype=torch.float32)
        )
        leaf = torch.cat([first_target(answers.target_leaf), others.masked_fill(answers.is_hit, -1)], dim=1)
        weight = (leaf >= 0).float()
        return self._packed(questions, tree, allowed, leaf, torch.zeros_like(weight), weight)

    def _roll_out(
        self, questions: Sequence[Question], tree: AnswerTree, number: int, first_row: int, memory: PrefixMemory
    ) -> Rollout:
        exclude = _seen(questions) if self._excludes_seen else None
        seed = derive_seed(self._seed, "rollout", number)
        rows = np.arange(first_row, first_row + len(questions)).tolist()
        return roll_out(
            self._policy, questions, tree, self._config.rollout, seed=seed, rows=rows, exclude=exclude, memory=memory
        )

    def _with_logprobs(self, batch: JudgedBatch) -> JudgedBatch:
        """Returns the batch with the log-probabilities that the loss will ask for."""
        temperature = self._config.rollout.temperature
        old_logprobs = ref_logprobs = None
        if self._config.needs_old_logprobs:
            old_logprobs, _ = candidate_logprobs(self._policy, batch.rows, batch.answers, temperature)
        if self._reference is not None:
            ref_logprobs, _ = candidate_logprobs(self._reference.model, batch.rows, batch.answers, temperature)
        return replace(batch, old_logprobs=old_logprobs, ref_logprobs=ref_logprobs)

    def _allowed(self, questions: Sequence[Question], tree: AnswerTree) -> ItemFilter | None:
        """Returns what a roll-out of these questions allows."""
        return allowed_items(questions, tree, _seen(questions)) if self._excludes_seen else None

    def _packed(
        self,
        questions: Sequence[Question],
        tree: AnswerTree,
        allowed: ItemFilter | None,
        leaf: Int[Tensor, "B G"],
        advantages: Float[Tensor, "B G"],
        weight: Float[Tensor, "B G"],
        old_logprobs: Float[Tensor, "B G L"] | None = None,
        ref_logprobs: Float[Tensor, "B G L"] | None = None,
    ) -> JudgedBatch:
        prompts = [question.prompt for question in questions]
        rows = pack_candidates(prompts, leaf, tree, self._policy.device, allowed)
        return JudgedBatch(
            rows=rows,
            answers=tree,
            leaf=leaf,
            task=torch.tensor([question.task for question in questions], device=self._policy.device),
            advantages=advantages,
            weight=weight,
            old_logprobs=old_logprobs,
            ref_logprobs=ref_logprobs,
        )


def _seen(questions: Sequence[Question]) -> list[Sequence[int]]:
    return [question.seen for question in questions]
