"""What newer training rows count more: one meaning of "newest", by time or by the rows' order where a time is missing.

Ages are shares of the training rows, not seconds: what counts is how much else was seen since, and a source without
times has nothing else.
"""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError

__all__ = ["RecencyConfig", "SequenceAges", "are_newest", "oldest_first", "sequence_ages"]


@dataclass(frozen=True, kw_only=True)
class RecencyConfig:
    """How training favours what is newer; where the split is by time, that is most like what comes."""

    half_life: float = 0.0
    """Share of the training rows after which a target counts half in the loss, 0.25 say; 0 counts all alike."""
    newest_share: float = 0.2
    """Share of the training rows that the last epochs teach, the newest ones."""
    newest_epochs: int = 0
    """How many of the epochs, the last ones, teach only the newest rows; 0 for none."""

    def __post_init__(self) -> None:
        if self.half_life < 0:
            raise ConfigError(f"recency.half_life: expected at least 0, found {self.half_life}")
        if not 0 < self.newest_share <= 1:
            raise ConfigError(f"recency.newest_share: expected above 0 and at most 1, found {self.newest_share}")
        if self.newest_epochs < 0:
            raise ConfigError(f"recency.newest_epochs: expected at least 0, found {self.newest_epochs}")

    @property
    def is_idle(self) -> bool:
        """Whether all rows are taught alike."""
        return not (self.half_life or self.newest_epochs)


@dataclass(frozen=True, eq=False)
class SequenceAges:
    """Of each item of a user's n training items, what its target counts and whether it is among the newest."""

    weight: Float[np.ndarray, "n"]
    """In an epoch that teaches all targets: 1 on average over them."""
    newest_weight: Float[np.ndarray, "n"]
    """In an epoch that teaches the newest alone: 1 on average over those."""
    is_new: Bool[np.ndarray, "n"]


def oldest_first(timestamp: pl.Series) -> Int[np.ndarray, "n"]:
    """Returns the rows from the oldest to the newest; of equal times the later rows are newer.

    Args:
        timestamp: Of every row; where one is missing the rows' order counts instead.
    """
    if timestamp.null_count():
        return np.arange(len(timestamp))
    return np.argsort(timestamp.to_numpy(), kind="stable")


def are_newest(timestamp: pl.Series, share: float) -> Bool[np.ndarray, "n"]:
    """Returns which rows are among the newest.

    Args:
        timestamp: As for :func:`oldest_first`.
        share: Share of the rows that are wanted, above 0 and at most 1.
    """
    num_rows = len(timestamp)
    is_new = np.zeros(num_rows, dtype=bool)
    is_new[oldest_first(timestamp)[num_rows - math.ceil(share * num_rows) :]] = True
    return is_new


def sequence_ages(dataset: Dataset, config: RecencyConfig) -> list[SequenceAges]:
    """Returns the ages of each of ``dataset.train_sequences()``, in that order.

    The weight of row r from the newest of n is ``2 ** -(r / n / half_life)``, divided by the mean over the targets that
    an epoch teaches, so that the loss keeps its scale. A sequence's items before its first row count as that row, and
    are never new.
    """
    train = dataset.train
    age = np.zeros(train.height)
    age[oldest_first(train["timestamp"])[::-1]] = np.arange(train.height) / max(1, train.height)
    weight = np.exp2(-age / config.half_life) if config.half_life else np.ones(train.height)
    rows = pl.DataFrame(
        {
            "user_id": train["user_id"],
            "weight": weight,
            "is_new": are_newest(train["timestamp"], config.newest_share),
        }
    )
    by_user = {
        user: (np.array(weights), np.array(new))
        for user, weights, new in rows.group_by("user_id", maintain_order=True).agg("weight", "is_new").iter_rows()
    }
    sequences = dataset.train_sequences()
    if not sequences:
        return []
    found = [_weights_of(len(items), *by_user[user]) for user, items in sequences.items()]
    weights = np.concatenate([weight for weight, _ in found])
    mean, newest_mean = weights.mean(), weights[np.concatenate([is_new for _, is_new in found])].mean()
    return [SequenceAges(weight / mean, weight / newest_mean, is_new) for weight, is_new in found]


def _weights_of(
    length: int, weight: Float[np.ndarray, "k"], is_new: Bool[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Returns weights and newness of a sequence whose last k items are the targets of the user's rows."""
    before = length - len(weight)
    return np.concatenate([np.full(before, weight[0]), weight]), np.concatenate([np.zeros(before, dtype=bool), is_new])
