"""When a policy has collapsed: figures of the training against those that it began with; knows no model."""

from collections.abc import Mapping
from dataclasses import dataclass

from itemic.core.errors import ConfigError

__all__ = ["CollapseGuard", "GuardConfig", "guarded_score"]


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Bounds beyond which a training is stopped; its best parameters are kept. 0 takes a bound away."""

    min_entropy: float = 0.1
    """Least entropy of the policy's choices, as a share of what it was in the first window."""
    min_distinct: float = 0.25
    """Least share of distinct candidates in a group, where answers are drawn with replacement."""
    max_kl: float = 2.0
    """Largest divergence from the reference, nats a token."""
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
        if self.max_kl < 0 or self.max_steps_without_signal < 0:
            raise ConfigError("guards: max_kl and max_steps_without_signal must be at least 0")
        if self.window < 1:
            raise ConfigError(f"guards.window: expected at least 1, found {self.window}")


def guarded_score(ndcg: float, hit_rate: float, first_hit_rate: float) -> float:
    """Returns the validation score: NDCG times min(1, HR / HR before the first step).

    So a gain at the top of the list counts only as far as it does not narrow the list below.

    Args:
        ndcg: NDCG@10 now.
        hit_rate: HR@50 now.
        first_hit_rate: HR@50 before the first step; where it is 0 nothing can be lost.
    """
    return ndcg * min(1.0, hit_rate / first_hit_rate) if first_hit_rate > 0 else ndcg


class CollapseGuard:
    """Watches the steps of one training."""

    def __init__(self, config: GuardConfig) -> None:
        """Has seen nothing yet."""
        self._config = config
        self._first_entropy = 0.0
        self._first_score = 0.0
        self._steps_without_signal = 0.0
        self._sums: dict[str, float] = {}
        self._num_steps = 0.0
        self._reason = ""

    @property
    def reason(self) -> str:
        """What collapsed, with the figures and a remedy; empty as long as nothing did."""
        return self._reason

    def see_step(self, figures: Mapping[str, float]) -> None:
        """Takes a step's ``entropy``, ``distinct``, ``kl`` and ``zero_variance`` in, as far as they are there."""
        is_silent = figures.get("zero_variance", 0.0) >= 1
        self._steps_without_signal = self._steps_without_signal + 1 if is_silent else 0.0
        for name in ("entropy", "distinct", "kl"):
            if name in figures:
                self._sums[name] = self._sums.get(name, 0.0) + figures[name]
        self._num_steps += 1
        if 0 < self._config.max_steps_without_signal <= self._steps_without_signal:
            self._reason = (
                f"all rewards of each group were equal for {int(self._steps_without_signal)} steps, so there is "
                "nothing to learn: use other rewards, a wider sampler, or rollout.add_ground_truth"
            )
        if self._num_steps >= self._config.window:
            self._compare({name: total / self._num_steps for name, total in self._sums.items()})
            self._sums, self._num_steps = {}, 0.0

    def see_score(self, score: float) -> None:
        """Takes a validation score in; the first one is the measure of the others."""
        if not self._first_score:
            self._first_score = score
        elif score < self._config.min_valid_score * self._first_score:
            self._reason = (
                f"the validation score fell from {self._first_score:.4f} to {score:.4f}, below "
                f"{self._config.min_valid_score:g} of the start: lower training.learning_rate or raise grpo.beta"
            )

    def state(self) -> dict[str, float]:
        """Returns all that was seen, as numbers."""
        sums = {f"sum.{name}": value for name, value in self._sums.items()}
        return {
            "first_entropy": self._first_entropy,
            "first_score": self._first_score,
            "steps_without_signal": self._steps_without_signal,
            "num_steps": self._num_steps,
            **sums,
        }

    def restore(self, state: Mapping[str, float]) -> None:
        """Takes back what ``state`` returned."""
        self._first_entropy, self._first_score = state["first_entropy"], state["first_score"]
        self._steps_without_signal, self._num_steps = state["steps_without_signal"], state["num_steps"]
        self._sums = {name[4:]: value for name, value in state.items() if name.startswith("sum.")}

    def _compare(self, means: Mapping[str, float]) -> None:
        config, entropy = self._config, means.get("entropy", 0.0)
        if not self._first_entropy:
            self._first_entropy = entropy
        if entropy < config.min_entropy * self._first_entropy:
            self._reason = (
                f"the policy's entropy fell from {self._first_entropy:.3f} to {entropy:.3f} nats a code, below "
                f"{config.min_entropy:g} of the start: lower training.learning_rate or raise grpo.beta"
            )
        if means.get("distinct", 1.0) < config.min_distinct:
            self._reason = (
                f"only {means['distinct']:.0%} of a group's answers were distinct, below {config.min_distinct:.0%}: "
                "raise rollout.temperature or take beams"
            )
        if 0 < config.max_kl < means.get("kl", 0.0):
            self._reason = (
                f"the policy is {means['kl']:.2f} nats a code away from the reference, above {config.max_kl:g}: lower "
                "training.learning_rate or raise grpo.beta"
            )
