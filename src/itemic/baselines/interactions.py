"""Training sequences and histories as flat arrays and sparse matrices: what the neighbour models compute with."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.core.ranking import Histories

__all__ = ["TrainingLog", "break_ties", "count_covisits", "history_ages", "history_matrix", "top_of_each_row"]

_TIE_BREAK = 1e-9
"""Weight of popularity beside evidence of order 1: less than any real difference, more than rounding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingLog:
    """The training interactions, user by user, oldest first."""

    user: Int[np.ndarray, "I"]
    """Number of the user, 0..U-1, in blocks."""
    item: Int[np.ndarray, "I"]
    """Item index."""
    num_items: int
    """Size of the catalogue."""

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> "TrainingLog":
        """Returns the dataset's training sequences.

        Raises:
            DataError: if there is none to learn from.
        """
        sequences = list(dataset.train_sequences().values())
        if not sequences:
            raise DataError("the dataset has no training interactions to fit a baseline to")
        lengths = np.array([len(sequence) for sequence in sequences])
        return cls(
            user=np.repeat(np.arange(len(sequences)), lengths),
            item=np.concatenate([np.array(sequence, dtype=np.int64) for sequence in sequences]),
            num_items=dataset.num_items,
        )

    def counts(self) -> Int[np.ndarray, "N"]:
        """Returns the interactions of each item."""
        return np.bincount(self.item, minlength=self.num_items)

    def binary_matrix(self) -> scipy.sparse.csr_array:
        """Returns the U x N matrix with 1 where the user has the item, however often."""
        shape = (int(self.user[-1]) + 1, self.num_items)
        matrix = scipy.sparse.csr_array((np.ones(len(self.item)), (self.user, self.item)), shape=shape)
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix


def count_covisits(log: TrainingLog, max_distance: int, backward_weight: float) -> scipy.sparse.csr_array:
    """Returns m: for every ordered pair of items the weight of its co-visits.

    m_ij = sum over pairs of i at p and j at q of one user, 0 < |q - p| <= max_distance, of w / |q - p|,
           w = 1 where q > p, backward_weight where q < p
    """
    sources, targets, weights = [], [], []
    for distance in range(1, max_distance + 1):
        same_user = log.user[distance:] == log.user[:-distance]
        sources.append(log.item[:-distance][same_user])
        targets.append(log.item[distance:][same_user])
        weights.append(np.full(len(sources[-1]), 1 / distance))
    pairs = (np.concatenate(sources), np.concatenate(targets))
    forward = scipy.sparse.csr_array((np.concatenate(weights), pairs), shape=(log.num_items, log.num_items))
    both: scipy.sparse.csr_array = forward + backward_weight * forward.T.tocsr()
    return both


def history_ages(
    histories: Histories, num_items: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Returns row, item and age of every different item of every history.

    The age is the number of steps back from the end, 0 for the last item; of a repeated item it is the age of the
    most recent occurrence.
    """
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    row = np.repeat(np.arange(len(histories)), lengths)
    item = np.array([item for history in histories for item in history], dtype=np.int64)
    age = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(item))
    latest = len(item) - 1 - np.unique((row * num_items + item)[::-1], return_index=True)[1]
    return row[latest], item[latest], age[latest]


def history_matrix(histories: Histories, num_items: int, decay: float) -> scipy.sparse.csr_array:
    """Returns the B x N matrix with decay ** age for each item of a history; a decay of 1 makes it binary."""
    row, item, age = history_ages(histories, num_items)
    return scipy.sparse.csr_array((float(decay) ** age, (row, item)), shape=(len(histories), num_items))


def top_of_each_row(matrix: scipy.sparse.csr_array, num_kept: int) -> scipy.sparse.csr_array:
    """Returns the matrix with the ``num_kept`` largest entries of each row; among equals the lower column is kept."""
    entries = matrix.tocoo()
    row, column = entries.coords
    order = np.lexsort((column, -entries.data, row))
    sorted_row = row[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_row, sorted_row)
    kept = order[place < num_kept]
    return scipy.sparse.csr_array((entries.data[kept], (row[kept], column[kept])), shape=matrix.shape)


def break_ties(evidence: Float[np.ndarray, "B N"], counts: Int[np.ndarray, "N"]) -> Float[np.ndarray, "B N"]:
    """Returns the evidence with equal values, items without any above all, ordered by popularity."""
    ordered: np.ndarray = evidence + _TIE_BREAK * counts / counts.max()
    return ordered
