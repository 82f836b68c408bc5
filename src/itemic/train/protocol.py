"""What the training loop asks of whatever it trains; knows no loop, model or loss."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["Learner", "LearnerHooks"]


class LearnerHooks:
    """What most learners have no use for: inherit it and override what is needed."""

    def before_step(self, batches: Sequence[Any], device: torch.device) -> None:
        """Prepares the micro-batches of the coming step with the parameters as they are: asks the policy, say."""
        return

    def after_step(self) -> None:
        """Takes in what the step showed, once after each optimiser step and before anything else is asked."""
        return

    def pop_figures(self) -> dict[str, float]:
        """Returns whatever else belongs in the log, of the steps since it was last asked."""
        return {}

    def reason_to_stop(self) -> str:
        """Returns why the training should end after this step; empty where it should not."""
        return ""

    def state(self) -> dict[str, Tensor]:
        """Returns what a checkpoint must hold beside parameters and counters."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what ``state`` returned."""
        return


@runtime_checkable
class Learner(Protocol):
    """What the loop trains; the last six methods are in LearnerHooks for those who have no use for them."""

    @property
    def module(self) -> nn.Module:
        """Maps a collated batch to the sum of losses of each task; its parameters are trained."""
        ...

    @property
    def task_names(self) -> Sequence[str]:
        """Name of each task, for the log."""
        ...

    @property
    def lower_is_better(self) -> bool:
        """Whether the figure that validation is judged by should fall."""
        ...

    def micro_batches(self, epoch: int) -> Sequence[Any]:
        """Returns the epoch's batches, the same ones whenever asked for the same epoch."""
        ...

    def label_counts(self, batch: Any) -> Sequence[int]:
        """Returns the number of labels of each task in a batch."""
        ...

    def collate(self, batch: Any, device: torch.device) -> tuple[Any, int]:
        """Returns a batch as the module takes it, and its number of tokens."""
        ...

    def validate(self) -> dict[str, float]:
        """Returns validation figures, the deciding one first; empty where there is nothing to validate on."""
        ...

    def before_step(self, batches: Sequence[Any], device: torch.device) -> None:
        """Prepares the micro-batches of the coming step with the parameters as they are: asks the policy, say."""
        ...

    def after_step(self) -> None:
        """Takes in what the step showed, once after each optimiser step and before anything else is asked."""
        ...

    def pop_figures(self) -> dict[str, float]:
        """Returns whatever else belongs in the log, of the steps since it was last asked."""
        ...

    def reason_to_stop(self) -> str:
        """Returns why the training should end after this step; empty where it should not."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Returns what a checkpoint must hold beside parameters and counters."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what ``state`` returned."""
        ...
