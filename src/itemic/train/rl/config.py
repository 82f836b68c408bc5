"""The settings of the stage rl; knows what they mean, not what is done with them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from itemic.core.errors import ConfigError
from itemic.model.adapters import LoraConfig
from itemic.train.loop import TrainConfig
from itemic.train.parameters import TrainedPart
from itemic.train.rl.advantages import AdvantageScale
from itemic.train.rl.guards import GuardConfig
from itemic.train.rl.objectives import RatioLevel
from itemic.train.rl.reference import ReferenceConfig
from itemic.train.rl.rewards.registry import check_rewards
from itemic.train.rl.rollout import RolloutConfig

__all__ = ["GrpoConfig", "Objective", "PreferenceConfig", "RlConfig", "RlTrainConfig"]

Objective = Literal["grpo", "dpo", "s-dpo"]

_LONGEST_LIST = 50
"""Validation has HR@50, and a beam search of 50 items is at least 50 wide."""


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """Group-relative policy optimisation.

    Its relatives: Dr. GRPO is ``advantages: none, normalize: constant``; DAPO ``normalize: token, clip_high: 0.28``;
    GSPO ``ratio: sequence, clip_low: 3e-4, clip_high: 4e-4``. The ratio and its bounds come into play only with
    ``inner_epochs`` or ``steps_per_rollout`` above 1: in a roll-out's first step every ratio is 1.
    """

    advantages: AdvantageScale = "group"
    """What centred rewards are divided by: the deviation in the group (GRPO), in the micro-batch, or nothing (Dr.
    GRPO)."""
    ratio: RatioLevel = "token"
    """Whether each token has a probability ratio (GRPO) or each answer one (GSPO)."""
    normalize: Literal["sequence", "token", "constant"] = "sequence"
    """Mean over an answer's tokens, then over answers (GRPO); over all tokens of a step (DAPO); or tokens summed and
    divided by the most an answer can have (Dr. GRPO)."""
    clip_low: float = 0.2
    """The ratio is bounded below by 1 - clip_low; 0.2 as in PPO."""
    clip_high: float = 0.2
    """The ratio is bounded above by 1 + clip_high; 0.2 as in PPO, 0.28 in DAPO."""
    beta: float = 1e-3
    """Weight of the KL term to the reference; 0 needs no reference. 1e-3 as in MiniOneRec's script."""

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1:
            raise ConfigError(f"clip_low: expected 0 to 1, found {self.clip_low}")
        for name in ("clip_high", "beta"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: expected at least 0, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Preference losses: the target is preferred to other items; no reward is asked."""

    beta: float = 1.0
    """How dear it is to leave the reference; 1 as in S-DPO, 0.1 in DPO's paper."""
    negatives: Literal["uniform", "policy"] = "uniform"
    """Where rejected items come from: all items alike (S-DPO), or what the policy itself answers, by ``rollout``."""
    num_negatives: int = 15
    """Rejected items for each question, for ``uniform``; the paper of S-DPO has 3. For ``policy`` it is the roll-out's
    group size."""

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"beta: expected above 0, found {self.beta}")
        if self.num_negatives < 1:
            raise ConfigError(f"num_negatives: expected at least 1, found {self.num_negatives}")


@dataclass(frozen=True, kw_only=True)
class RlTrainConfig(TrainConfig):
    """How to optimise in RL: fewer and smaller steps than when learning from nothing, and a closer watch on them.

    A class of its own, so that a recipe that sets one field keeps these defaults for the others.
    """

    epochs: int = 1
    """Passes over the questions."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW. The default suits small decoders; 1e-5 a pretrained backbone, as in MiniOneRec's
    script."""
    weight_decay: float = 0.0
    """Decay of weight matrices: none, for it pulls away from the model that RL began with."""
    max_grad_norm: float = 0.3
    """Gradients are scaled down to this global norm; 0 leaves them as they are. 0.3 as in MiniOneRec's script."""
    accumulation_steps: int = 4
    """Micro-batches of one optimiser step."""
    validate_every_steps: int = 50
    """Steps between validations; 0 validates at the end of each epoch."""
    validate_at_start: bool = True
    """Whether to validate before the first step too, so that a training that only harms keeps what it began with."""
    patience: int = 6
    """Stops after this many validations without a better figure; 0 never stops early."""
    log_every_steps: int = 5
    """Steps between log lines."""


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    """What is asked, how answers are found and judged, and how the model learns from it."""

    tasks: Mapping[str, float] = field(default_factory=lambda: {"next_item": 1.0})
    """For each task how many times an epoch asks each of its questions, on average. All but next_item need words."""
    objective: Objective = "grpo"
    """``grpo`` learns from rewards, ``dpo`` and ``s-dpo`` (several negatives in one softmax) from preferences."""
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    """For ``grpo``."""
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    """For ``dpo`` and ``s-dpo``."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How candidates are found."""
    rewards: Mapping[str, float] = field(default_factory=lambda: {"rule": 1.0, "rank-if-hit": 1.0})
    """Weight of each reward in the sum: rule and rank-if-hit are the hybrid of MiniOneRec's code, rule and rank that of
    its paper, with which lists got worse here. Names of itemic, or your own as package.module:function. A weight of 0
    computes and logs a reward, no more."""
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    """What the policy is held to."""
    parameters: TrainedPart = "all"
    """What trains: everything, the rows of the SID tokens alone, or those and LoRA adapters."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Shape of the adapters for ``parameters: lora``; nothing is dropped, for the policy that learns must be the one
    that answered."""
    max_history: int = 0
    """Most items before a target; 0 is what the model was fine-tuned with."""
    newest_share: float = 1.0
    """Share of the training rows that are asked about, the newest ones; less than 1 where tastes drift and what is
    recommended next lies after the log."""
    exclude_history: bool | None = None
    """Whether items that the user had before, in the prompt or earlier, are no candidates; by default where the dataset
    has no repeats, as in evaluation."""
    questions_per_batch: int = 16
    """Questions of a micro-batch; ``training.accumulation_steps`` of them make an optimiser step."""
    steps_per_rollout: int = 1
    """Optimiser steps among which the questions of one roll-out are divided."""
    inner_epochs: int = 1
    """Times that the answers of one roll-out are learned from. Above 1, as with ``steps_per_rollout``, the ratio to the
    policy that answered counts."""
    max_valid_examples: int = 1000
    """Validation examples that are ranked; 0 ranks all."""
    valid_beams: int = 50
    """Beam width of validation, at least 50 for HR@50."""
    guards: GuardConfig = field(default_factory=GuardConfig)
    """When a training is given up."""
    training: RlTrainConfig = field(default_factory=RlTrainConfig)
    """How to optimise."""

    def __post_init__(self) -> None:
        check_rewards(self.rewards)
        least = {"max_history": 0, "questions_per_batch": 1, "steps_per_rollout": 1, "inner_epochs": 1}
        for name, bound in {**least, "max_valid_examples": 0, "valid_beams": _LONGEST_LIST}.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"{name}: expected at least {bound}, found {getattr(self, name)}")
        if not 0 < self.newest_share <= 1:
            raise ConfigError(f"newest_share: expected above 0 and at most 1, found {self.newest_share}")
        if self.objective == "grpo" and self.rollout.group_size < 2:
            raise ConfigError("rollout.group_size: expected at least 2, for advantages compare the answers of a group")
        if self.objective != "grpo" and self.rollout.add_ground_truth:
            raise ConfigError(
                f"rollout.add_ground_truth: {self.objective} always has the target, and would reject one answer less; "
                "leave it out"
            )
        if self.lora.dropout not in (0, LoraConfig.dropout):
            raise ConfigError(f"lora.dropout {self.lora.dropout}: RL drops nothing; leave it out")

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities of the reference are needed."""
        return self.objective != "grpo" or self.grpo.beta > 0

    @property
    def needs_old_logprobs(self) -> bool:
        """Whether the policy that learns is another one than the policy that answered."""
        return self.objective == "grpo" and (self.inner_epochs > 1 or self.steps_per_rollout > 1)

    @property
    def unread(self) -> list[str]:
        """Names of the settings that were changed though nothing reads them beside the others, ``grpo.ratio`` say."""
        default = RlConfig()
        names = [name for name in self._idle_sections() if getattr(self, name) != getattr(default, name)]
        for section, fields in self._idle_fields().items():
            mine, theirs = getattr(self, section), getattr(default, section)
            names += [f"{section}.{name}" for name in fields if getattr(mine, name) != getattr(theirs, name)]
        return names

    def _idle_sections(self) -> list[str]:
        """Returns the fields that nothing reads at all."""
        is_grpo = self.objective == "grpo"
        is_read = {
            "grpo": is_grpo,
            "rewards": is_grpo,
            "preference": not is_grpo,
            "reference": self.needs_reference,
            "lora": self.parameters == "lora",
        }
        return [name for name, read in is_read.items() if not read]

    def _idle_fields(self) -> dict[str, list[str]]:
        """Returns for sections of which something is read the fields that nothing reads."""
        is_grpo, kl_is_known = self.objective == "grpo", self.objective == "grpo" and self.grpo.beta > 0
        idle = {
            "grpo": ["ratio", "clip_low", "clip_high"] if is_grpo and not self.needs_old_logprobs else [],
            "guards": [] if kl_is_known else ["max_kl"],
        }
        if is_grpo:
            return idle
        idle["guards"] += ["min_distinct", "max_steps_without_signal"]
        if self.preference.negatives == "policy":
            return idle | {"preference": ["num_negatives"]}
        fields = [field.name for field in dataclasses.fields(RolloutConfig)]
        # A temperature is the loss's too, and only some samplers allow one.
        needed = ["temperature"] if self.rollout.temperature == 1 else ["temperature", "sampler"]
        return idle | {"rollout": [name for name in fields if name not in needed]}
