"""Training windows of sequences: every target once an epoch, batches of like lengths; knows no network."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from itemic.baselines.interactions import TrainingLog
from itemic.baselines.sequential.batch import Batch
from itemic.core.errors import DataError

__all__ = ["WindowLessons", "Windows"]


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowLessons:
    """The training sequences as windows that are cut anew every epoch."""

    log: TrainingLog
    """Training interactions."""
    max_length: int
    """Most targets in a window."""
    batch_tokens: int
    """Targets of a step, about."""

    def epoch(self, rng: np.random.Generator) -> tuple[int, Iterator[Batch]]:
        """Returns the number of batches and the batches."""
        windows = Windows.cut(self.log, self.max_length, rng)
        parts = windows.batches(self.batch_tokens, rng)
        return len(parts), (windows.load(self.log, rows) for rows in parts)


@dataclass(frozen=True, eq=False)
class Windows:
    """Ranges of the training log, each within one user: inputs ``[start, start + length)``, targets one further."""

    start: Int[np.ndarray, "W"]
    """Row of the first input."""
    length: Int[np.ndarray, "W"]
    """Number of inputs and of targets."""

    @classmethod
    def cut(cls, log: TrainingLog, max_length: int, rng: np.random.Generator) -> "Windows":
        """Returns windows that hold every target once: every training item but each user's first.

        Where a user has more than one window, the first has a random length, so that the cuts, behind which a target
        loses its past, fall elsewhere in every epoch.

        Args:
            log: Training interactions.
            max_length: Most targets in a window.
            rng: Draws the cuts.

        Raises:
            DataError: if no user has two training interactions.
        """
        first, num_targets = _targets_by_user(log)
        if not len(first):
            raise DataError("no user has two training interactions: there is no next item to learn from")
        head = np.where(
            num_targets > max_length,
            rng.integers(1, max_length + 1, size=len(first)),
            np.minimum(num_targets, max_length),
        )
        num_windows = 1 + -(-(num_targets - head) // max_length)
        place = np.arange(num_windows.sum()) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
        begin = np.where(place == 0, 0, np.repeat(head, num_windows) + (place - 1) * max_length)
        end = np.minimum(np.repeat(head, num_windows) + place * max_length, np.repeat(num_targets, num_windows))
        return cls(np.repeat(first, num_windows) + begin, end - begin)

    def batches(self, batch_tokens: int, rng: np.random.Generator) -> list[Int[np.ndarray, "b"]]:
        """Returns the windows in random batches of about ``batch_tokens`` positions, alike in length within each."""
        shuffled = rng.permutation(len(self.start))
        by_length = shuffled[np.argsort(self.length[shuffled], kind="stable")]
        batch = np.cumsum(self.length[by_length]) // batch_tokens
        parts = np.split(by_length, np.flatnonzero(np.diff(batch)) + 1)
        return [parts[index] for index in rng.permutation(len(parts))]

    def load(self, log: TrainingLog, rows: Int[np.ndarray, "b"]) -> Batch:
        """Returns inputs and targets of some windows, padded to the right."""
        longest = int(self.length[rows].max())
        real = np.arange(longest) < self.length[rows, None]
        place = np.where(real, self.start[rows, None] + np.arange(longest), 0)
        return Batch(
            items=torch.from_numpy(log.item[place]),
            scored=torch.from_numpy(real),
            targets=torch.from_numpy(log.item[place + 1][real]),
        )


def _targets_by_user(log: TrainingLog) -> tuple[Int[np.ndarray, "u"], Int[np.ndarray, "u"]]:
    """Returns the row of the first interaction and the number of targets of every user who has one."""
    num_interactions = np.bincount(log.user)
    first = np.cumsum(num_interactions) - num_interactions
    has_target = num_interactions > 1
    return first[has_target], num_interactions[has_target] - 1
