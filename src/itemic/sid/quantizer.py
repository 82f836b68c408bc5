"""What every quantizer can do: turn vectors into codes and codes into vectors; knows no particular one."""

from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import CatalogError, DataError

__all__ = ["Quantizer", "check_vectors", "complete_codes"]

_ROWS_AT_ONCE = 1 << 16


@runtime_checkable
class Quantizer(Protocol):
    """Learns one codebook a level; a SID is one code of each, coarse first."""

    kind: ClassVar[str]
    """Name in configs and in the saved file's metadata, "rqkmeans" say."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes K of each level."""
        ...

    @property
    def codebooks(self) -> tuple[Float[np.ndarray, "K D"], ...]:
        """Vectors of the codes of each level; none before ``fit``."""
        ...

    def fit(self, x: Float[np.ndarray, "N D"], rng: np.random.Generator) -> "Quantizer":
        """Returns itself, with codebooks learned from ``x``; the same ``rng`` state gives the same codebooks.

        Raises:
            CatalogError: if there are fewer vectors than codes in a codebook.
            DataError: if a vector is not finite.
        """
        ...

    def distances(self, x: Float[np.ndarray, "N D"], prefix: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N K"]:
        """Returns what each code of level l costs after the first l codes of each vector.

        The cost is a squared distance that ``encode`` minimises greedily; collisions are resolved by it.
        """
        ...

    def encode(self, x: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N L"]:
        """Returns the codes of each vector."""
        ...

    def decode(self, codes: Int[np.ndarray, "N L"]) -> Float[np.ndarray, "N D"]:
        """Returns the vector that each row of codes stands for."""
        ...

    def save(self, path: Path) -> None:
        """Writes codebooks and settings as safetensors, with ``kind`` in the metadata."""
        ...

    @classmethod
    def load(cls, path: Path) -> "Quantizer":
        """Returns the quantizer in ``path``.

        Raises:
            ArtifactError: if the file is missing, damaged or of another kind.
        """
        ...


def complete_codes(
    quantizer: Quantizer, x: Float[np.ndarray, "N D"], prefix: Int[np.ndarray, "N l"]
) -> Int[np.ndarray, "N L"]:
    """Returns codes that begin with ``prefix`` and go on with the nearest code of each level in turn."""
    num_levels = len(quantizer.codebook_sizes)
    codes = np.empty((len(x), num_levels), dtype=np.int64)
    codes[:, : prefix.shape[1]] = prefix
    for first in range(0, len(x), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        for level in range(prefix.shape[1], num_levels):
            codes[rows, level] = quantizer.distances(x[rows], codes[rows, :level]).argmin(axis=1)
    return codes


def check_vectors(x: Float[np.ndarray, "N D"], codebook_sizes: tuple[int, ...]) -> None:
    """Raises unless codebooks of these sizes can be learned from ``x``.

    Raises:
        CatalogError: if a codebook has more codes than there are vectors.
        DataError: if a vector is not finite.
    """
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise DataError(f"embedding of item row {row} holds NaN or infinity")
    if max(codebook_sizes) > len(x):
        raise CatalogError(
            f"codebook sizes {codebook_sizes} need at least {max(codebook_sizes)} items to learn from, found {len(x)}; "
            f"set codebook_sizes to at most {len(x)} codes a level"
        )
