"""Figures of a training as means: of micro-batches over a step, of steps over what was last logged; knows no names."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["RunningFigures", "masked_mean"]

_STATE = "figures."


class RunningFigures:
    """Sums that wait for the next line of the log."""

    def __init__(self) -> None:
        """Holds nothing."""
        self._of_step: dict[str, list[Tensor]] = {}
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Takes in the scalar figures of a micro-batch of the step; they stay where they are until the step ends."""
        for name, value in figures.items():
            self._of_step.setdefault(name, []).append(value.detach())

    def end_step(self) -> dict[str, float]:
        """Returns the step's means; empty where nothing was added since the last step."""
        if not self._of_step:
            return {}
        means = torch.stack([torch.stack(values).float().mean() for values in self._of_step.values()]).tolist()
        figures = dict(zip(self._of_step, means, strict=True))
        self._of_step = {}
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0.0) + 1
        return figures

    def pop(self) -> dict[str, float]:
        """Returns the means over the steps that ended since the last call."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state(self) -> dict[str, Tensor]:
        """Returns the sums of the steps that ended, for a checkpoint."""
        return {
            f"{_STATE}{name}": torch.tensor([total, self._counts[name]], dtype=torch.float64)
            for name, total in self._sums.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what ``state`` returned, of a mapping that may hold more."""
        held = {name.removeprefix(_STATE): pair.tolist() for name, pair in state.items() if name.startswith(_STATE)}
        self._sums = {name: pair[0] for name, pair in held.items()}
        self._counts = {name: pair[1] for name, pair in held.items()}


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Returns the mean over the places that count, without gradient; 0 where none does."""
    return torch.where(mask, values.detach(), 0.0).sum() / mask.sum().clamp(min=1)
