"""One step's training material; knows neither where it is from nor the network."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

__all__ = ["Batch", "Lessons"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Sequences, padded to the right, and what follows some of their positions."""

    items: Int[Tensor, "B T"]
    """Item indices, oldest first."""
    scored: Bool[Tensor, "B T"]
    """Positions with a target."""
    targets: Int[Tensor, "n"]
    """The items that follow them, row by row."""


@runtime_checkable
class Lessons(Protocol):
    """Training material, dealt anew every epoch."""

    def epoch(self, rng: np.random.Generator) -> tuple[int, Iterator[Batch]]:
        """Returns the number of batches of an epoch and the batches."""
        ...
