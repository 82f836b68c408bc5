"""Training examples, a history and its target each: the last position alone is scored; knows no network."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Int

from itemic.baselines.sequential.batch import Batch
from itemic.core.dataset import Dataset
from itemic.core.errors import DataError

__all__ = ["Examples"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Histories one behind the other, and their targets."""

    item: Int[np.ndarray, "I"]
    """Items of all histories."""
    start: Int[np.ndarray, "E"]
    """Place of each history's first item."""
    length: Int[np.ndarray, "E"]
    """Items of each history, at least 1."""
    target: Int[np.ndarray, "E"]
    """Item that follows each history."""
    batch_size: int
    """Examples a step."""

    @classmethod
    def from_dataset(cls, dataset: Dataset, max_length: int, batch_size: int) -> "Examples":
        """Returns the train split's examples, their histories cut to the last items; those without one are left out.

        Args:
            dataset: The dataset.
            max_length: Most items of a history.
            batch_size: Examples a step.

        Raises:
            DataError: if no training example has a history.
        """
        kept = dataset.train.filter(pl.col("history").list.len() > 0)
        if kept.is_empty():
            raise DataError("no training example has a history: there is no next item to learn from")
        histories = kept["history"].list.tail(max_length)
        length = histories.list.len().to_numpy().astype(np.int64)
        return cls(
            item=histories.explode().to_numpy(),
            start=np.cumsum(length) - length,
            length=length,
            target=kept["target"].to_numpy(),
            batch_size=batch_size,
        )

    def epoch(self, rng: np.random.Generator) -> tuple[int, Iterator[Batch]]:
        """Returns the number of batches and the batches, every example once, in random order."""
        order = rng.permutation(len(self.start))
        parts = [order[begin : begin + self.batch_size] for begin in range(0, len(order), self.batch_size)]
        return len(parts), (self.load(rows) for rows in parts)

    def load(self, rows: Int[np.ndarray, "b"]) -> Batch:
        """Returns some examples, padded to the right."""
        length = self.length[rows, None]
        column = np.arange(length.max())
        items = self.item[np.where(column < length, self.start[rows, None] + column, 0)]
        return Batch(
            items=torch.from_numpy(items),
            scored=torch.from_numpy(column == length - 1),
            targets=torch.from_numpy(self.target[rows]),
        )
