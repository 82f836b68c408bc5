"""What training and ranking ask of a sequential network; knows no data."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CausalNetwork", "SequentialNetwork"]


class SequentialNetwork(nn.Module, ABC):
    """Turns a sequence of items into a state, and a state into a score for every item as the next one."""

    items: nn.Embedding
    """Table of the items that are read."""

    @abstractmethod
    def states(self, items: Int[Tensor, "B T"], scored: Bool[Tensor, "B T"]) -> Float[Tensor, "n D"]:
        """Returns the state after each scored position, row by row; a state sees nothing behind its position.

        Args:
            items: Item indices, oldest first, each row from its first column on; what follows a row's last scored
                position does not count.
            scored: The positions whose states are asked for; it may lie on the CPU while the items do not.
        """

    @abstractmethod
    def output(self) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N"] | None]:
        """Returns weights and, where it has some, biases of the layer that scores the items."""

    def logits(self, state: Float[Tensor, "n D"]) -> Float[Tensor, "n N"]:
        """Returns the score of every item as the next one."""
        weight, bias = self.output()
        logits = state @ weight.T
        return logits if bias is None else logits + bias

    def item_logits(self, state: Float[Tensor, "n D"], items: Int[Tensor, "n C"]) -> Float[Tensor, "n C"]:
        """Returns the scores of some items for each state."""
        weight, bias = self.output()
        logits = torch.einsum("bd,bcd->bc", state, functional.embedding(items, weight))
        return logits if bias is None else logits + functional.embedding(items, bias[:, None])[..., 0]


class CausalNetwork(SequentialNetwork):
    """A network that gives the states of all positions at once; ``forward`` makes them."""

    @abstractmethod
    def forward(self, items: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Returns the state after each item; padding goes to the right, where no earlier position sees it."""

    def states(self, items: Int[Tensor, "B T"], scored: Bool[Tensor, "B T"]) -> Float[Tensor, "n D"]:
        """Returns the state after each scored position, any number a row."""
        states: Tensor = self(items)
        if scored.device == items.device:
            return states[scored]
        row, column = scored.nonzero(as_tuple=True)  # how many there are is known without waiting for the device
        return states[row.to(items.device), column.to(items.device)]
