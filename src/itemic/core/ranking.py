"""Ranked lists of items and the protocol of everything that makes them; knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from itemic.core.errors import DataError

__all__ = ["Histories", "Recommendations", "Recommender", "allowed_mask", "check_histories", "top_k"]

Histories = Sequence[Sequence[int]]
"""For each user the item indices of the past, oldest first."""


@dataclass(frozen=True, kw_only=True)
class Recommendations:
    """Ranked items for a batch of users.

    Where fewer than ``k`` items are allowed for a user, the row is filled with item index -1 and score -inf.
    """

    item_index: Int[np.ndarray, "B k"]
    """Item rows, best first."""
    score: Float[np.ndarray, "B k"]
    """Scores, falling along a row; equal scores are ties, which the metrics resolve by their expectation."""
    num_tied_beyond: Int[np.ndarray, "B"]
    """How many further items, cut off at k, share the last listed score: without it a tie across the cut would make
    the expected rank wrong."""
    num_allowed: Int[np.ndarray, "B"] | None = None
    """How many items each user might have got, None where nobody counted. A list shorter than both this and ``k`` did
    not reach all that were allowed."""

    def __len__(self) -> int:
        return len(self.item_index)

    @property
    def num_listed(self) -> Int[np.ndarray, "B"]:
        """Number of items that each user got."""
        return np.asarray(np.count_nonzero(self.item_index >= 0, axis=1))


@runtime_checkable
class Recommender(Protocol):
    """Anything that ranks the catalogue for a user's history: popularity, SASRec, a language model."""

    name: str
    """Name in tables, "SASRec" say."""

    def recommend(
        self, histories: Histories, k: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> Recommendations:
        """Returns the ``k`` best items for each history.

        Args:
            histories: B histories; an empty one is a new user and is allowed.
            k: Length of each list, at least 1.
            exclude: For each user items that must not appear.
            allow: For each user the only items that may appear; None allows the whole catalogue.

        Raises:
            DataError: if an item index is not in the catalogue.
        """
        ...


def check_histories(histories: Histories, num_items: int, what: str = "histories") -> None:
    """Raises DataError unless every list holds whole numbers that lie in ``[0, num_items)``."""
    for row, history in enumerate(histories):
        if isinstance(history, str | int):
            raise DataError(f"{what}[{row}] is {history!r}; expected a list of item indices")
        for item in history:
            if not isinstance(item, int | np.integer):
                raise DataError(f"{what}[{row}] holds {item!r}; expected item indices, whole numbers from 0")
            if not 0 <= item < num_items:
                raise DataError(f"{what}[{row}] holds item index {item}; the catalogue has 0..{num_items - 1}")


def allowed_mask(
    num_users: int, num_items: int, exclude: Histories | None, allow: Histories | None
) -> Bool[np.ndarray, "B N"]:
    """Returns which items may be listed for each user: those of ``allow`` (or all) without those of ``exclude``.

    Raises:
        DataError: if an item index is not in the catalogue or a list is not one a user.
    """
    for what, lists in (("exclude", exclude), ("allow", allow)):
        if lists is not None:
            if len(lists) != num_users:
                raise DataError(f"{what} has {len(lists)} lists for {num_users} histories")
            check_histories(lists, num_items, what)
    mask = np.full((num_users, num_items), allow is None)
    for row, items in enumerate(allow or ()):
        mask[row, np.asarray(items, dtype=np.int64)] = True
    for row, items in enumerate(exclude or ()):
        mask[row, np.asarray(items, dtype=np.int64)] = False
    return mask


def top_k(
    scores: Float[np.ndarray, "B N"],
    k: int,
    exclude: Histories | None = None,
    allow: Histories | None = None,
) -> Recommendations:
    """Returns the ``k`` best allowed items of a dense score matrix; equal scores are listed by item index.

    Args:
        scores: Finite scores, or -inf for items that must not appear.
        k: Length of each list, at least 1.
        exclude: For each user items that must not appear.
        allow: For each user the only items that may appear.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, found {k}")
    num_users, num_items = scores.shape
    allowed = allowed_mask(num_users, num_items, exclude, allow) & np.isfinite(scores)
    masked = np.where(allowed, scores, -np.inf)
    width = min(k, num_items)
    order = _stable_top(masked, width)
    item_index = np.full((num_users, k), -1, dtype=np.int64)
    score = np.full((num_users, k), -np.inf, dtype=np.float64)
    score[:, :width] = np.take_along_axis(masked, order, axis=1)
    item_index[:, :width] = np.where(np.isfinite(score[:, :width]), order, -1)
    last = score[:, -1:]
    tied = ((masked == last) & np.isfinite(last)).sum(axis=1) - ((score == last) & np.isfinite(last)).sum(axis=1)
    return Recommendations(item_index=item_index, score=score, num_tied_beyond=tied)


def _stable_top(masked: Float[np.ndarray, "B N"], width: int) -> Int[np.ndarray, "B w"]:
    """Returns the columns of the ``width`` largest values a row; among equals the lower column comes first."""
    threshold = -np.partition(-masked, width - 1, axis=1)[:, width - 1]
    order = np.empty((len(masked), width), dtype=np.int64)
    for row, values in enumerate(masked):
        above = np.flatnonzero(values > threshold[row])
        level = np.flatnonzero(values == threshold[row])[: width - len(above)]
        candidates = np.concatenate([above, level])
        order[row] = candidates[np.lexsort((candidates, -values[candidates]))]
    return order
