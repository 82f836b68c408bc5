"""When a policy has collapsed: figures of the training against those that it began with; knows no model."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from itemic.core.errors import ConfigError

__all__ = ["CollapseGuard", "GuardConfig", "guarded_score"]

_HIT_RATE_SLACK = 0.02


_STATE = "guard."
_REASON = "guard.reason"
_SUM = "guard.sum."


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Bounds beyond which a training is stopped; its best parameters are kept. 0 takes a bound away."""

    min_entropy: float = 0.1
    """Least entropy of the policy's choices, as a share of what it was in the first window."""
    min_distinct: float = 0.25
    """Least share of distinct candidates in a group, where answers are drawn with replacement."""
    max_kl: float = 10.0
    """Largest divergence from the reference, nats a code, as k3 estimates it: far too high on beams, of which the
    policy has made most unlikely."""
    min_valid_score: float = 0.7
    """Least validation score, as a share of what it was before the first step."""
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
    """Returns the validation score: NDCG times min(1, HR / (0.98 HR before the first step)).

    So a gain at the top of the list counts only as far as it does not narrow the list below. A loss of 2% is
    forgiven: chance alone changes as much on 1,500 users.

    Args:
        ndcg: NDCG@10 now.
        hit_rate: HR@50 now.
        first_hit_rate: HR@50 before the first step; where it is 0 nothing can be lost.
    """
    least = (1 - _HIT_RATE_SLACK) * first_hit_rate
    return ndcg * min(1.0, hit_rate / least) if least > 0 else ndcg


class CollapseGuard:
    """Watches the steps of one training."""

    def __init__(self, config: GuardConfig) -> None:
        """Has seen nothing yet."""
        self._config = config
        self._first_entropy = 0.0
        self._first_score = 0.0
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
        """Takes a step's ``entropy``, ``distinct``, ``kl`` and ``zero_variance`` in, as far as they are there.

        A step that goes on with an earlier roll-out has no ``distinct`` and ``zero_variance`` of its own.
        """
        if "zero_variance" in figures:
            self._is_silent = figures["zero_variance"] >= 1
        self._steps_without_signal = self._steps_without_signal + 1 if self._is_silent else 0
        for name in ("entropy", "distinct", "kl"):
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
        if not self._first_score:
            self._first_score = score
        elif score < self._config.min_valid_score * self._first_score:
            self._give_up(
                f"the validation score fell from {self._first_score:.4f} to {score:.4f}, below "
                f"{self._config.min_valid_score:g} of the start: lower training.learning_rate or raise grpo.beta"
            )

    def state(self) -> dict[str, Tensor]:
        """Returns all that was seen, for a checkpoint; all names begin with ``guard.``."""
        firsts = [self._first_entropy, self._first_score]
        counts = [self._is_silent, self._steps_without_signal, self._num_steps]
        sums = {f"{_SUM}{name}": torch.tensor(pair, dtype=torch.float64) for name, pair in self._sums.items()}
        return {
            f"{_STATE}firsts": torch.tensor(firsts, dtype=torch.float64),
            f"{_STATE}counts": torch.tensor(counts, dtype=torch.int64),
            _REASON: torch.tensor(list(self._reason.encode()), dtype=torch.uint8),
            **sums,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what ``state`` returned, of a mapping that may hold more."""
        self._first_entropy, self._first_score = state[f"{_STATE}firsts"].tolist()
        is_silent, self._steps_without_signal, self._num_steps = state[f"{_STATE}counts"].tolist()
        self._is_silent = bool(is_silent)
        self._reason = bytes(state[_REASON].tolist()).decode()
        pairs = {name: pair.tolist() for name, pair in state.items() if name.startswith(_SUM)}
        self._sums = {name.removeprefix(_SUM): (total, int(count)) for name, (total, count) in pairs.items()}

    def _give_up(self, reason: str) -> None:
        self._reason = self._reason or reason

    def _compare(self, means: Mapping[str, float]) -> None:
        config, entropy = self._config, means.get("entropy", 0.0)
        if not self._first_entropy:
            self._first_entropy = entropy
        if entropy < config.min_entropy * self._first_entropy:
            self._give_up(
                f"the policy's entropy fell from {self._first_entropy:.3f} to {entropy:.3f} nats a code, below "
                f"{config.min_entropy:g} of the start: lower training.learning_rate or raise grpo.beta"
            )
        if means.get("distinct", 1.0) < config.min_distinct:
            self._give_up(
                f"only {means['distinct']:.0%} of a group's answers were distinct, below {config.min_distinct:.0%}: "
                "raise rollout.temperature or take beams"
            )
        if 0 < config.max_kl < means.get("kl", 0.0):
            self._give_up(
                f"the policy is {means['kl']:.2f} nats a code away from the reference, above {config.max_kl:g}: lower "
                "training.learning_rate or raise grpo.beta"
            )
