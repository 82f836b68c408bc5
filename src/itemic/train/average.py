"""An exponential moving average of the parameters that train; knows nothing of what is trained, or of files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]

_WARM_UP = 10


class MovingAverage:
    """Averaged parameters beside those of a module (Polyak 1992): ``a <- d a + (1 - d) p`` after each step.

    In the first steps d is ``min(decay, (1 + t) / (10 + t))``, t counting from 0, so that the random first values are
    soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Begins with the parameters as they are.

        Args:
            module: Whose parameters that need a gradient are averaged.
            decay: d, in (0, 1): 0.99 is an average over about the last hundred steps.
        """
        self._decay = decay
        self._parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self._averages = {name: each.detach().clone() for name, each in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the parameters in.

        Args:
            step: Optimiser steps taken before this one.
        """
        decay = min(self._decay, (1 + step) / (_WARM_UP + step))
        for name, parameter in self._parameters.items():
            self._averages[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the averages into the module for as long as the context lasts."""
        trained = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._put(self._averages)
        try:
            yield
        finally:
            self._put(trained)

    def keep(self) -> None:
        """Puts the averages into the module for good."""
        self._put(self._averages)

    def state(self) -> dict[str, Tensor]:
        """Returns the averages by name."""
        return self._averages

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what ``state`` returned."""
        for name, value in state.items():
            self._averages[name].copy_(value)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
