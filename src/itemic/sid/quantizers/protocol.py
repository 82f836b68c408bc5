"""What every quantizer can do: turn vectors into codes and codes into vectors; knows no particular one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from itemic.core.errors import CatalogError, ConfigError, DataError

__all__ = ["Quantizer", "check_codebook_sizes", "check_vectors", "complete_codes", "pieces"]

_ROWS_AT_ONCE = 1 << 14

_CELLS_AT_ONCE = 1 << 22
"""Most numbers, of rows times codes say, that are computed at once: 16 MiB of them."""


@runtime_checkable
class Quantizer(Protocol):
    """Learns one codebook a level; a SID is one code of each, coarse first.

    Vectors may be float16, float32 or float64, in memory or mapped from a file: every method reads them in pieces of
    rows and computes in float32, so it needs little memory beyond its input and its output.
    """

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

    def fit(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, *, start: "Quantizer | None" = None
    ) -> "Quantizer":
        """Returns itself, with codebooks learned from ``x``; the same ``rng`` state gives the same codebooks.

        Args:
            x: What to learn from.
            rng: Of every random choice.
            start: A fitted quantizer of the same kind and sizes to begin at instead of at random, so that after a
                refit to changed items most codes keep their meaning. Of an unchanged catalogue few items move.

        Raises:
            CatalogError: if there are fewer vectors than codes in a codebook, or ``start`` does not fit.
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

    def decode(self, codes: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N D"]:
        """Returns the vector that each row of codes stands for; a prefix of a SID gives its coarser vector."""
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


def pieces(num_rows: int, rows_at_once: int = _ROWS_AT_ONCE, *, cells_a_row: int = 1) -> Iterator[slice]:
    """Yields slices that cover ``num_rows`` rows in order, each short enough to be computed with at once.

    Args:
        num_rows: How many rows there are.
        rows_at_once: Most rows of a piece.
        cells_a_row: Numbers that each row takes, codes or dimensions say: with many of them pieces are shorter.
    """
    step = max(1, min(rows_at_once, _CELLS_AT_ONCE // max(cells_a_row, 1)))
    for first in range(0, num_rows, step):
        yield slice(first, min(first + step, num_rows))


def complete_codes(
    quantizer: Quantizer, x: Float[np.ndarray, "N D"], prefix: Int[np.ndarray, "N l"]
) -> Int[np.ndarray, "N L"]:
    """Returns codes that begin with ``prefix`` and go on with the nearest code of each level in turn."""
    num_levels = len(quantizer.codebook_sizes)
    codes = np.empty((len(x), num_levels), dtype=np.int64)
    codes[:, : prefix.shape[1]] = prefix
    for rows in pieces(len(x), cells_a_row=max(quantizer.codebook_sizes)):
        for level in range(prefix.shape[1], num_levels):
            codes[rows, level] = quantizer.distances(x[rows], codes[rows, :level]).argmin(axis=1)
    return codes


def check_codebook_sizes(codebook_sizes: Sequence[int]) -> tuple[int, ...]:
    """Returns the sizes as a tuple.

    Raises:
        ConfigError: if there is no level, or a codebook without a code.
    """
    sizes = tuple(int(size) for size in codebook_sizes)
    if not sizes or min(sizes) < 1:
        raise ConfigError(f"codebook sizes {sizes}: expected at least one level of one code or more")
    return sizes


def check_vectors(x: Float[np.ndarray, "N D"], codebook_sizes: Sequence[int]) -> None:
    """Raises unless codebooks of these sizes can be learned from ``x``.

    Raises:
        CatalogError: if a codebook has more codes than there are vectors.
        DataError: if a vector is not finite.
    """
    for rows in pieces(len(x), cells_a_row=x.shape[1]):
        finite = np.isfinite(x[rows]).all(axis=1)
        if not finite.all():
            raise DataError(f"embedding of item row {rows.start + int(finite.argmin())} holds NaN or infinity")
    if max(codebook_sizes) > len(x):
        raise CatalogError(
            f"codebook sizes {tuple(codebook_sizes)} need at least {max(codebook_sizes)} items to learn from, found "
            f"{len(x)}; set codebook_sizes to at most {len(x)} codes a level"
        )
