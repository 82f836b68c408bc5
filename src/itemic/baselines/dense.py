"""The base of every baseline that scores the whole catalogue: batching, filters, ranking and its file in one place.

Knows no scoring rule; a baseline adds ``fit``, ``score``, ``stored`` and ``restored``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float

from itemic.baselines.stored import read_fitted, write_fitted
from itemic.core.errors import ArtifactError, DataError
from itemic.core.ranking import Histories, Recommendations, check_histories, top_k

__all__ = ["DenseRecommender", "concatenate_lists"]

R = TypeVar("R", bound="DenseRecommender")

_MAX_CELLS = 1 << 23
"""Scores held at once: 64 MiB."""


class DenseRecommender(ABC):
    """A ``core.ranking.Recommender`` that scores every item for every history."""

    name: str
    """Name in tables."""
    given: ClassVar[frozenset[str]] = frozenset({"counts"})
    """Stored arrays that nothing was fitted to: how often items occur, which ranks where nothing else is known, and
    text vectors."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    @property
    def num_parameters(self) -> int:
        """Numbers that were fitted: what is stored, but for what is ``given`` and positions in sparse matrices."""
        arrays, _ = self.stored()
        places = (".indices", ".indptr", ".shape")
        return sum(array.size for name, array in arrays.items() if name not in self.given and not name.endswith(places))

    @abstractmethod
    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the arrays and the plain values that ``restored`` makes the recommender from."""

    @classmethod
    @abstractmethod
    def restored(
        cls: type[R], arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, device: str = "auto"
    ) -> R:
        """Returns the recommender of these arrays and values; the device concerns networks alone."""

    def save(self, path: Path, made_from: str = "") -> None:
        """Writes the recommender as safetensors, atomically.

        Args:
            path: The file.
            made_from: What it was fitted to and how, a hash say.
        """
        write_fitted(path, *self.stored(), made_from)

    @classmethod
    def load(cls: type[R], path: Path, made_from: str | None = None, *, device: str = "auto") -> R:
        """Returns the recommender in a file that ``save`` wrote.

        Args:
            path: The file.
            made_from: What it must be fitted to; None takes any.
            device: Where to compute, for a network.

        Raises:
            ArtifactError: if the file is missing, damaged or made from something else.
        """
        arrays, values = read_fitted(path, made_from)
        try:
            return cls.restored(arrays, values, device=device)
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(f"{path}: damaged ({error}); remove the file") from None

    @abstractmethod
    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns a finite score for every item; the histories hold catalogue items only and may be empty."""

    def recommend(
        self, histories: Histories, k: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> Recommendations:
        """Returns the ``k`` best allowed items for each history; equal scores are listed by item index.

        Args:
            histories: B histories, oldest item first.
            k: Length of each list, at least 1.
            exclude: For each user items that must not appear.
            allow: For each user the only items that may appear; None allows the whole catalogue.

        Raises:
            DataError: if an item index is not in the catalogue, a filter has not one list a history, or k is below 1.
        """
        check_histories(histories, self.num_items)
        for what, lists in (("exclude", exclude), ("allow", allow)):
            if lists is not None and len(lists) != len(histories):
                raise DataError(f"{what} has {len(lists)} lists for {len(histories)} histories")
        step = max(1, _MAX_CELLS // self.num_items)
        parts = []
        for start in range(0, max(1, len(histories)), step):
            rows = slice(start, start + step)
            scores = self.score(histories[rows])
            parts.append(top_k(scores, k, exclude and exclude[rows], allow and allow[rows]))
        return concatenate_lists(parts)


def concatenate_lists(parts: Sequence[Recommendations]) -> Recommendations:
    """Returns the lists of several batches as one, at least one batch and all of one length."""
    return Recommendations(
        item_index=np.concatenate([part.item_index for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        num_tied_beyond=np.concatenate([part.num_tied_beyond for part in parts]),
    )
