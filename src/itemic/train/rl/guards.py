"""When a policy has collapsed: figures of the training against those that it began with; knows no model."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from itemic.core.errors import ConfigError

__all__ = ["CollapseGuard", "GuardConfig", "guarded_score"]

log = logging.getLogger("itemic")

_HIT_RATE_SLACK = 0.02

_COUNTS = "guard.counts"
_REASON = "guard.reason"
_FIRST = "guard.first."
_SUM = "guard.sum."
_LAST_SCORE = "guard.last_score"
_HAS_WARNED = "guard.has_warned"

_RULE = "reward/rule"
_SCORE = "validation score"
_NOTABLE_FALL = 0.1
"""Share of its first value that a figure must lose before the warning of reward hacking names it: two windows of 20
steps differ by half of that by chance."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Bounds beyond which a training is stopped; its best parameters are kept. 0 takes a bound away."""

    min_entropy: float = 0.1
    """Least entropy of the policy's choices, as a share of what it was in the first window."""
    min_distinct: float = 0.25
    """Least share of distinct candidates in a group, as a share of what it was in the first window; it can fall where
    answers are drawn with replacement."""
    max_kl: float = 10.0
    """Largest divergence from the reference, nats a code, as k3 estimates it: far too high on beams, of which the
    policy has made most unlikely."""
    min_valid_score: float = 0.7
    """Least validation score, as a share of the first one: of that before the first step, unless
    ``training.validate_at_start`` is off."""
    max_steps_without_signal: int = 100
    """Most steps in a row in which all groups had equal rewards."""
    window: int = 20
    """Steps over which figures are averaged before they are compared."""

    def __post_init__(self) -> None:
        for name in ("min_entropy", "min_distinct", "min_valid_score"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"guards.{name}: expected a share in [0, 1), found {getattr(self, name)}")
        if not (self.max_kl >= 0 and self.max_steps_without_signal >= 0):
            raise ConfigError("guards: max_kl and max_steps_without_signal must be at least 0")
        if self.window < 1:
            raise ConfigError(f"guards.window: expected at least 1, found {self.window}")


def guarded_score(ndcg: float, hit_rate: float, first_hit_rate: float) -> float:
    """Returns the validation score: NDCG times min(1, HR / (0.98 HR of the first validation)).

    So a gain at the top of the list counts only as far as it does not narrow the list below. A loss of 2% is
    forgiven: chance alone changes as much on 1,500 users.

    Args:
        ndcg: NDCG@10 now.
        hit_rate: HR@50 now.
        first_hit_rate: HR@50 of the first validation; where it is 0 nothing can be lost.
    """
    least = (1 - _HIT_RATE_SLACK) * first_hit_rate
    return ndcg * min(1.0, hit_rate / least) if least > 0 else ndcg


class CollapseGuard:
    """Watches the steps of one training."""

    def __init__(self, config: GuardConfig, *, may_be_hacked: str = "") -> None:
        """Has seen nothing yet.

        Args:
            config: Bounds.
            may_be_hacked: Name of a reward that a model gives and that is learned from: it can rise while answers get
                worse, which is warned of once. Empty where there is none.
        """
        self._config = config
        self._hackable = f"reward/{may_be_hacked}" if may_be_hacked else ""
        self._has_warned = False
        self._firsts: dict[str, float] = {}
        self._last_score: float | None = None
        self._is_silent = False
        self._steps_without_signal = 0
        self._sums: dict[str, tuple[float, int]] = {}
        self._num_steps = 0
        self._reason = ""

    @property
    def reason(self) -> str:
        """What collapsed first, with the figures and a remedy; empty as long as nothing did."""
        return self._reason

    def see_step(self, figures: Mapping[str, float]) -> None:
        """Takes a step's ``entropy``, ``distinct``, ``kl``, ``zero_variance`` and rewards in, as far as they are there.

        A step that goes on with an earlier roll-out has no figures of answers of its own.
        """
        if "zero_variance" in figures:
            self._is_silent = figures["zero_variance"] >= 1
        self._steps_without_signal = self._steps_without_signal + 1 if self._is_silent else 0
        for name in ("entropy", "distinct", "kl", _RULE, self._hackable):
            if name in figures:
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = (total + figures[name], count + 1)
        self._num_steps += 1
        if 0 < self._config.max_steps_without_signal <= self._steps_without_signal:
            self._give_up(
                f"all rewards of each group were equal for {self._steps_without_signal} steps, so there is nothing to "
                "learn: use other rewards, a wider sampler, or rollout.add_ground_truth"
            )
        if self._num_steps >= self._config.window:
            self._compare({name: total / count for name, (total, count) in self._sums.items()})
            self._sums, self._num_steps = {}, 0

    def see_score(self, score: float) -> None:
        """Takes a validation score in; the first one is the measure of the others."""
        first, self._last_score = self._first(_SCORE, score), score
        if score < self._config.min_valid_score * first:
            self._give_up(
                f"the validation score fell from {first:.4f} to {score:.4f}, below "
                f"{self._config.min_valid_score:g} of the start: lower training.learning_rate or raise grpo.beta"
            )

    def state(self) -> dict[str, Tensor]:
        """Returns all that was seen, for a checkpoint; all names begin with ``guard.``."""
        counts = [self._is_silent, self._steps_without_signal, self._num_steps]
        figures: dict[str, float | tuple[float, int]] = {
            f"{_FIRST}{name}": first for name, first in self._firsts.items()
        }
        figures |= {f"{_SUM}{name}": pair for name, pair in self._sums.items()}
        figures |= {} if self._last_score is None else {_LAST_SCORE: self._last_score}
        return {
            **{name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()},
            _COUNTS: torch.tensor(counts, dtype=torch.int64),
            _REASON: torch.tensor(list(self._reason.encode()), dtype=torch.uint8),
            **({_HAS_WARNED: torch.tensor(True)} if self._has_warned else {}),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what ``state`` returned, of a mapping that may hold more."""
        firsts = {name: float(first) for name, first in state.items() if name.startswith(_FIRST)}
        self._firsts = {name.removeprefix(_FIRST): first for name, first in firsts.items()}
        self._last_score = float(state[_LAST_SCORE]) if _LAST_SCORE in state else None
        self._has_warned = _HAS_WARNED in state
        is_silent, self._steps_without_signal, self._num_steps = state[_COUNTS].tolist()
        self._is_silent = bool(is_silent)
        self._reason = bytes(state[_REASON].tolist()).decode()
        pairs = {name: pair.tolist() for name, pair in state.items() if name.startswith(_SUM)}
        self._sums = {name.removeprefix(_SUM): (total, int(count)) for name, (total, count) in pairs.items()}

    def _give_up(self, reason: str) -> None:
        self._reason = self._reason or reason

    def _first(self, name: str, value: float) -> float:
        """Returns the first value of a figure that was not 0, the one at hand where there was none."""
        if not self._firsts.get(name):
            self._firsts[name] = value
        return self._firsts[name]

    def _compare(self, means: Mapping[str, float]) -> None:
        """Compares a window's means with the first window's."""
        config = self._config
        if "entropy" in means:
            entropy, first = means["entropy"], self._first("entropy", means["entropy"])
            if entropy < config.min_entropy * first:
                self._give_up(
                    f"the policy's entropy fell from {first:.3f} to {entropy:.3f} nats a code, below "
                    f"{config.min_entropy:g} of the start: lower training.learning_rate or raise grpo.beta"
                )
        if "distinct" in means:
            distinct, first = means["distinct"], self._first("distinct", means["distinct"])
            if distinct < config.min_distinct * first:
                self._give_up(
                    f"the share of a group's answers that are distinct fell from {first:.0%} to {distinct:.0%}, below "
                    f"{config.min_distinct:g} of the start: raise rollout.temperature or take beams"
                )
        if 0 < config.max_kl < means.get("kl", 0.0):
            self._give_up(
                f"the policy is {means['kl']:.2f} nats a code away from the reference, above {config.max_kl:g}: lower "
                "training.learning_rate or raise grpo.beta"
            )
        self._look_for_hacking(means)

    def _look_for_hacking(self, means: Mapping[str, float]) -> None:
        """Warns once when the reward that a model gives rose while what it stands for fell."""
        if not self._hackable or self._has_warned:
            return
        pairs = {
            name: (self._first(name, means[name]), means[name]) for name in (self._hackable, _RULE) if name in means
        }
        if self._last_score is not None:
            pairs[_SCORE] = (self._firsts[_SCORE], self._last_score)
        first, now = pairs.pop(self._hackable, (0.0, 0.0))
        fallen = [
            f"{name} fell from {before:.4f} to {after:.4f}"
            for name, (before, after) in pairs.items()
            if after < (1 - _NOTABLE_FALL) * before
        ]
        if now > first and fallen:
            self._has_warned = True
            log.warning(
                "reward hacking: %s rose from %.4f to %.4f while %s; the policy learns to please the model that gives "
                "the reward: give it less weight, and rule more",
                *(self._hackable, first, now, " and ".join(fallen)),
            )
