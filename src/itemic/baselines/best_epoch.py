"""How every trained baseline is stopped: by NDCG@10 on valid, which chooses the epoch; knows no network's inside."""

import copy

from torch import Tensor, nn

from itemic.core.dataset import Dataset
from itemic.evaluate.protocol import EvaluateConfig, EvaluationSet, evaluation_set

__all__ = ["VALID_CUTOFF", "BestEpoch", "valid_cases"]

VALID_CUTOFF = 10
"""Length of the list by whose NDCG epochs are compared."""


class BestEpoch:
    """The weights of the best epoch so far."""

    def __init__(self, network: nn.Module, patience: int) -> None:
        """Has no epoch yet.

        Args:
            network: What is trained.
            patience: Epochs without a better figure after which training is over.
        """
        self.figure = -1.0
        self._network = network
        self._patience = patience
        self._epoch = -1
        self._weights: dict[str, Tensor] | None = None

    def offer(self, figure: float, epoch: int) -> bool:
        """Takes the network's weights if the figure is the highest so far; returns whether training is over."""
        if figure > self.figure:
            self.figure, self._epoch, self._weights = figure, epoch, copy.deepcopy(self._network.state_dict())
        return epoch - self._epoch >= self._patience

    def restore(self) -> None:
        """Gives the network the best epoch's weights; without any figure it keeps those it has."""
        if self._weights is not None:
            self._network.load_state_dict(self._weights)


def valid_cases(dataset: Dataset, max_examples: int, seed: int) -> EvaluationSet | None:
    """Returns the valid examples that choose the epoch; None where there are none.

    Args:
        dataset: The dataset.
        max_examples: A random subset of this many; 0 takes all.
        seed: Draws the subset.
    """
    if dataset.valid.is_empty():
        return None
    return evaluation_set(dataset, EvaluateConfig(split="valid", max_examples=max_examples), seed=seed)
