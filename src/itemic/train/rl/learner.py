"""Reinforcement learning for the loop: before a step the policy answers, its answers are judged, then it learns.

An epoch is cut into roll-outs, a roll-out into optimiser steps, a step into micro-batches. Answers are given by the
policy as it is before the first step of their roll-out. Knows no file and no loss.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from itemic.core.errors import ConfigError
from itemic.core.seeds import derive_rng
from itemic.train.loop import LearnerHooks
from itemic.train.rl.config import RlConfig
from itemic.train.rl.figures import RunningFigures
from itemic.train.rl.guards import CollapseGuard, guarded_score
from itemic.train.rl.judge import Judge
from itemic.train.rl.policy_loss import JudgedBatch, PolicyLoss
from itemic.train.rl.questions import QuestionBank, QuestionRefs
from itemic.train.rl.reference import Reference

__all__ = ["QuestionBatch", "RlLearner", "RolloutPlan"]

Ranking = Callable[[], dict[str, float]]
"""Ranks validation users with the model as it is; returns ``valid_ndcg@10`` and ``valid_hr@50`` among others."""

_FIRST_HIT_RATE = "first_hit_rate"
_HACKED = "collaborative"
"""The reward that a model gives, which can rise without anybody being served better."""
_ROLLOUTS_PER_EPOCH = 1 << 32
"""More than an epoch can have; epochs with fractional task weights differ in how many they have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RolloutPlan:
    """The questions that the policy answers at once."""

    number: int
    """Of no other roll-out in the training."""
    parts: Sequence[QuestionRefs]
    """The questions of each micro-batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QuestionBatch:
    """One micro-batch: a part of a roll-out."""

    plan: RolloutPlan
    part: int


class RlLearner(LearnerHooks):
    """GRPO and preference learning over one bank of questions."""

    lower_is_better = False

    def __init__(
        self,
        module: PolicyLoss,
        bank: QuestionBank,
        judge: Judge,
        config: RlConfig,
        *,
        figures: RunningFigures,
        reference: Reference | None,
        ranking: Ranking,
        seed: int,
    ) -> None:
        """Has asked nothing yet.

        Args:
            module: What is trained.
            bank: What is asked.
            judge: Makes batches of answers that are judged.
            config: How.
            figures: To which the module adds its own.
            reference: What the policy is held to; None where nothing does.
            ranking: Judges the model by its ranked lists.
            seed: Decides order and draws.
        """
        self.module, self.task_names = module, bank.task_names
        self._bank, self._judge, self._config, self._figures = bank, judge, config, figures
        self._reference, self._ranking, self._seed = reference, ranking, seed
        self._guard = CollapseGuard(config.guards, may_be_hacked=_HACKED if config.rewards.get(_HACKED, 0) > 0 else "")
        self._first_hit_rate: float | None = None
        self._rollout = -1
        self._judged: list[JudgedBatch] = []
        self._saved: dict[str, Tensor] = {}
        self._tokens_per_question: Tensor | float = 1.0
        self.micro_batches = functools.lru_cache(maxsize=1)(self._micro_batches)

    def _micro_batches(self, epoch: int) -> list[QuestionBatch]:
        """Returns the epoch's batches, each as often as its roll-out is learned from.

        What does not fill a roll-out at the epoch's end is left out. An epoch smaller than that is one roll-out, of as
        many steps as it fills; one smaller than a step is one step.
        """
        config, rng = self._config, derive_rng(self._seed, "epoch", epoch)
        most = config.training.accumulation_steps * config.steps_per_rollout
        parts = self._bank.micro_batches(self._bank.epoch(rng), config.questions_per_batch, rng, most)
        if not parts:
            raise ConfigError(f"tasks {dict(config.tasks)}: epoch {epoch} draws no question; raise the weights")
        size = self._rollout_size(len(parts))
        num_rollouts = len(parts) // size
        batches: list[QuestionBatch] = []
        for index in range(num_rollouts):
            plan = RolloutPlan(
                number=epoch * _ROLLOUTS_PER_EPOCH + index, parts=parts[index * size : (index + 1) * size]
            )
            for _ in range(config.inner_epochs):
                batches.extend(QuestionBatch(plan=plan, part=int(part)) for part in rng.permutation(size))
        return batches

    def _rollout_size(self, num_parts: int) -> int:
        """Returns the number of micro-batches that are answered at once: whole steps, where an epoch has one."""
        per_step, steps = self._config.training.accumulation_steps, self._config.steps_per_rollout
        if num_parts >= per_step:
            return min(num_parts // per_step, steps) * per_step
        if self._config.inner_epochs > 1:
            raise ConfigError(
                f"inner_epochs {self._config.inner_epochs}: an epoch has {num_parts} micro-batches and a step takes "
                f"{per_step}, so a step would hold a question twice: lower training.accumulation_steps or "
                "questions_per_batch"
            )
        return num_parts

    def label_counts(self, batch: QuestionBatch) -> list[int]:
        """Returns the number of questions of each task."""
        tasks = batch.plan.parts[batch.part].task.tolist()
        return [tasks.count(task) for task in range(len(self.task_names))]

    def before_step(self, batches: Sequence[QuestionBatch], device: torch.device) -> None:
        """Has the questions answered and judged where the step is its roll-out's first."""
        self.module.eval()
        if self._reference is not None:
            self._reference.before_step()
        plan = batches[0].plan
        if plan.number != self._rollout:
            questions = [self._bank.ask(part) for part in plan.parts]
            trees = [self._bank.tree(int(part.task[0])) for part in plan.parts]
            if int(self._saved.get("rollout", torch.tensor(-1))) == plan.number:
                self._judged = self._judge.restore(questions, trees, self._saved)
            else:
                self._judged = self._judge.answer_and_judge(questions, trees, plan.number)
            self._saved = {}
            self._rollout = plan.number
        if self._config.objective == "grpo" and self._config.grpo.normalize == "token":
            step = [self._judged[batch.part] for batch in batches]
            num_tokens = torch.stack([judged.num_answer_tokens for judged in step]).sum().clamp(min=1)
            self._tokens_per_question = num_tokens / sum(len(judged.task) for judged in step)

    def collate(self, batch: QuestionBatch, device: torch.device) -> tuple[JudgedBatch, int]:
        """Returns a part's answers, and its number of tokens."""
        judged = replace(self._judged[batch.part], tokens_per_question=self._tokens_per_question)
        return judged, judged.rows.num_tokens

    def validate(self) -> dict[str, float]:
        """Returns ``valid_score``, NDCG@10 as far as HR@50 is kept, and the ranking figures."""
        figures = self._ranking()
        if not figures:
            return {}
        hit_rate = figures["valid_hr@50"]
        if self._first_hit_rate is None:
            self._first_hit_rate = hit_rate
        score = guarded_score(figures["valid_ndcg@10"], hit_rate, self._first_hit_rate)
        self._guard.see_score(score)
        return {"valid_score": score, **figures}

    def after_step(self) -> None:
        """Shows the step's figures to the guard."""
        self._guard.see_step(self._figures.end_step())

    def pop_figures(self) -> dict[str, float]:
        """Returns rewards, entropy, divergence and the rest as means over the steps since it was last asked."""
        return self._figures.pop()

    def reason_to_stop(self) -> str:
        """Returns what collapsed; empty where nothing did."""
        return self._guard.reason

    def state(self) -> dict[str, Tensor]:
        """Returns the roll-out that is being learned from, the reference where it moves, and what guards have seen."""
        first = self._first_hit_rate
        return {
            **({} if first is None else {_FIRST_HIT_RATE: torch.tensor(first, dtype=torch.float64)}),
            **self._guard.state(),
            **self._figures.state(),
            **({} if self._reference is None else self._reference.state()),
            **self._judge.state(self._judged),
            "rollout": torch.tensor(self._rollout),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what ``state`` returned; the roll-out when its questions are asked again."""
        self._guard.restore(state)
        self._first_hit_rate = float(state[_FIRST_HIT_RATE]) if _FIRST_HIT_RATE in state else None
        self._figures.restore(state)
        if self._reference is not None:
            self._reference.restore(state)
        self._saved = dict(state)
