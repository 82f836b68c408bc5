"""What all quantizers share that decode a SID as the sum of one vector a level; knows not how those are learned."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from itemic.core.config import config_from_mapping
from itemic.core.errors import ArtifactError, CatalogError
from itemic.sid.quantizers.kmeans import RowSource, half_costs
from itemic.sid.quantizers.protocol import Quantizer, check_codebook_sizes, pieces
from itemic.sid.quantizers.stored import read_quantizer, write_quantizer

__all__ = [
    "ResidualQuantizer",
    "check_start",
    "encode_residuals",
    "levels_named",
    "name_levels",
    "squared_distances",
]

_ROWS_IN_CACHE = 1 << 11
"""Rows whose residuals and scores stay in a core's own cache from one level to the next."""


class ResidualQuantizer(ABC):
    """Codebooks of vectors: x̂ = Σ_l e_{c_l}, each code the nearest to what the levels before it left over.

    A kind of quantizer adds ``fit``, its ``kind`` and its config.
    """

    kind: ClassVar[str]
    config_type: ClassVar[type[Any]]

    def __init__(self, codebook_sizes: Sequence[int], config: Any = None) -> None:
        """Keeps the settings; ``fit`` makes the codebooks.

        Args:
            codebook_sizes: Number of codes of each level, coarse first.
            config: How to learn them; the defaults where there is none.

        Raises:
            ConfigError: if there is no level, or a codebook without a code.
        """
        self._sizes = check_codebook_sizes(codebook_sizes)
        self.config = config or self.config_type()
        self._codebooks: tuple[np.ndarray, ...] = ()

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes K of each level."""
        return self._sizes

    @property
    def codebooks(self) -> tuple[Float[np.ndarray, "_ D"], ...]:
        """Centroids of each level; none before ``fit``."""
        return self._codebooks

    @abstractmethod
    def fit(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, *, start: Quantizer | None = None
    ) -> "ResidualQuantizer":
        """Returns itself, with its codebooks learned from ``x``."""

    def distances(self, x: Float[np.ndarray, "N D"], prefix: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N K"]:
        """Returns the squared distance from what ``prefix`` leaves of each vector to each centroid of level l."""
        codebook = self._fitted()[prefix.shape[1]]
        distances = np.empty((len(x), len(codebook)), dtype=np.float32)
        for rows in pieces(len(x), cells_a_row=max(codebook.shape)):
            left = np.asarray(x[rows], dtype=np.float32) - self.decode(prefix[rows])
            distances[rows] = squared_distances(left, codebook)
        return distances

    def encode(self, x: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N L"]:
        """Returns the nearest centroid of each level in turn (greedy, not the best sum)."""
        return encode_residuals(x, self._fitted())

    def decode(self, codes: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N D"]:
        """Returns the sum of the centroids of each row's codes; a prefix of a SID gives its coarser vector."""
        codebooks = self._fitted()
        total = np.zeros((len(codes), codebooks[0].shape[1]), dtype=np.float32)
        for level in range(codes.shape[1]):
            total += codebooks[level][codes[:, level]]
        return total

    def save(self, path: Path) -> None:
        """Writes ``codebook_0``, ``codebook_1`` ... and what else the kind has learned, as safetensors."""
        write_quantizer(path, self.config, self._sizes, self._arrays())

    @classmethod
    def load(cls, path: Path) -> Any:
        """Returns the quantizer in ``path``.

        Raises:
            ArtifactError: if the file is missing, damaged or of another kind.
        """
        stored = read_quantizer(path, cls.kind)
        config = config_from_mapping(cls.config_type, stored.config, source=str(path))
        quantizer = cls(stored.codebook_sizes, config)
        try:
            quantizer._restore(stored.arrays)
        except KeyError as error:
            raise ArtifactError(f"{path}: damaged quantizer: {error} is missing") from None
        return quantizer

    def _arrays(self) -> dict[str, np.ndarray]:
        """Returns all that was learned, by the name it has in the file; a kind with more than codebooks adds to it."""
        return name_levels("codebook", self._fitted())

    def _restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes over what ``_arrays`` returned; a kind with more than codebooks adds to it.

        Raises:
            KeyError: if an array is missing.
        """
        self._codebooks = levels_named("codebook", arrays, len(self._sizes))

    def _fitted(self) -> tuple[np.ndarray, ...]:
        if not self._codebooks:
            raise CatalogError("the quantizer has no codebooks yet; call fit first")
        return self._codebooks


def encode_residuals(
    x: RowSource, codebooks: Sequence[Float[np.ndarray, "_ D"]], prices: Sequence[Float[np.ndarray, "_"]] | None = None
) -> Int[np.ndarray, "N L"]:
    """Returns c_l = argmin_k ‖r_l − e_k‖² + w_k for every level in turn; w, the prices, are 0 where none are given.

    In pieces, each carried through all levels with its running residual: one matrix product and one subtraction a
    level. As the argmax of r·e_k − (‖e_k‖² + w_k)/2: what all codes share is left out.
    """
    costs: list[np.ndarray | None] = [*prices] if prices else [None] * len(codebooks)
    offsets = [half_costs(codebook, price) for codebook, price in zip(codebooks, costs, strict=True)]
    codes = np.empty((x.shape[0], len(codebooks)), dtype=np.int64)
    widest = max(max(codebook.shape) for codebook in codebooks)
    for rows in pieces(x.shape[0], _ROWS_IN_CACHE, cells_a_row=widest):
        residual = np.array(x[rows], dtype=np.float32)
        for level, codebook in enumerate(codebooks):
            scores = residual @ codebook.T
            scores -= offsets[level]
            codes[rows, level] = nearest = scores.argmax(axis=1)
            if level + 1 < len(codebooks):
                residual -= codebook[nearest]
    return codes


def check_start(quantizer: Quantizer, start: Quantizer, width: int) -> None:
    """Raises unless ``start`` can be what ``quantizer`` begins from on vectors of ``width`` dimensions.

    Raises:
        CatalogError: if it is of another kind, has other codebook sizes or another width, or is not fitted.
    """
    if type(start) is not type(quantizer) or start.codebook_sizes != quantizer.codebook_sizes:
        raise CatalogError(
            f"cannot start from a quantizer of kind {start.kind!r} with codebook sizes {start.codebook_sizes}: "
            f"expected {quantizer.kind!r} with {quantizer.codebook_sizes}; leave out start to learn anew"
        )
    found = start.codebooks[0].shape[1] if start.codebooks else None
    if found != width:
        raise CatalogError(
            f"cannot start from a quantizer of width {found}: the vectors have {width} dimensions"
            if start.codebooks
            else "cannot start from a quantizer that has no codebooks yet; fit it first"
        )


def squared_distances(x: Float[np.ndarray, "N D"], centroids: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "N K"]:
    """Returns ‖x − e‖² for every pair, through one matrix product that is turned into them in place."""
    distances: np.ndarray = x @ centroids.T
    distances *= -2
    distances += np.square(x).sum(axis=1)[:, None]
    distances += np.square(centroids).sum(axis=1)
    np.maximum(distances, 0, out=distances)
    return distances


def name_levels(name: str, levels: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns one array a level under ``name_0``, ``name_1`` ..."""
    return {f"{name}_{level}": array for level, array in enumerate(levels)}


def levels_named(name: str, arrays: Mapping[str, np.ndarray], num_levels: int) -> tuple[np.ndarray, ...]:
    """Returns what ``name_levels`` named.

    Raises:
        KeyError: if the array of a level is missing.
    """
    return tuple(arrays[f"{name}_{level}"] for level in range(num_levels))
