"""Residual k-means (RQ-KMeans): each level clusters what the levels before it left over.

The only module that imports faiss. Knows nothing of collisions: two vectors may well get the same codes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open

from itemic.core.errors import ArtifactError, CatalogError, ConfigError
from itemic.core.files import write_arrays
from itemic.core.progress import track
from itemic.sid.quantizer import check_vectors, complete_codes

__all__ = ["RQKMeans"]


class RQKMeans:
    """One k-means codebook a level on the residuals: r_0 = x, c_l = argmin_k ‖r_l − e_k‖², r_{l+1} = r_l − e_{c_l}."""

    kind: ClassVar[str] = "rqkmeans"

    def __init__(self, codebook_sizes: Sequence[int], *, num_iterations: int = 25, num_restarts: int = 5) -> None:
        """Keeps the settings; ``fit`` or ``from_codes`` makes the codebooks.

        Args:
            codebook_sizes: Number of codes of each level, coarse first.
            num_iterations: Lloyd iterations a level.
            num_restarts: How often each level starts from other items as centroids; the least error wins.

        Raises:
            ConfigError: if there is no level, a codebook without a code, no iteration or no start.
        """
        if not codebook_sizes or min(codebook_sizes) < 1:
            raise ConfigError(
                f"codebook sizes {tuple(codebook_sizes)}: expected at least one level of one code or more"
            )
        if num_iterations < 1 or num_restarts < 1:
            raise ConfigError(
                f"num_iterations {num_iterations}, num_restarts {num_restarts}: expected at least 1 of each"
            )
        self._sizes = tuple(int(size) for size in codebook_sizes)
        self._num_iterations = num_iterations
        self._num_restarts = num_restarts
        self._codebooks: tuple[np.ndarray, ...] = ()

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes K of each level."""
        return self._sizes

    @property
    def codebooks(self) -> tuple[Float[np.ndarray, "K D"], ...]:
        """Centroids of each level; none before ``fit``."""
        return self._codebooks

    def fit(self, x: Float[np.ndarray, "N D"], rng: np.random.Generator) -> "RQKMeans":
        """Returns itself, with one k-means after the other fitted on the residuals.

        Like faiss, each k-means learns from at most 256 vectors a code, drawn with ``rng``; every vector is coded.

        Raises:
            CatalogError: if there are fewer vectors than codes in a codebook.
            DataError: if a vector is not finite.
        """
        check_vectors(x, self._sizes)
        residual = np.array(x, dtype=np.float32)
        codebooks = []
        for size in track(self._sizes, "learning codebooks"):
            centroids = _kmeans(residual, size, self._num_iterations, self._num_restarts, seed=int(rng.integers(2**31)))
            codebooks.append(centroids)
            residual -= centroids[_squared_distances(residual, centroids).argmin(axis=1)]
        self._codebooks = tuple(codebooks)
        return self

    @classmethod
    def from_codes(
        cls, x: Float[np.ndarray, "N D"], codes: Int[np.ndarray, "N L"], codebook_sizes: Sequence[int]
    ) -> "RQKMeans":
        """Returns the quantizer that explains given codes best, level by level.

        A centroid is the mean residual of the items that carry its code; a code that nobody carries stands for no
        change at all. So SIDs made elsewhere can be decoded, measured and have their collisions resolved.
        """
        quantizer = cls(codebook_sizes)
        residual = np.array(x, dtype=np.float32)
        codebooks = []
        for level, size in enumerate(quantizer._sizes):
            sums = np.zeros((size, x.shape[1]), dtype=np.float32)
            np.add.at(sums, codes[:, level], residual)
            counts = np.bincount(codes[:, level], minlength=size)
            centroids = sums / np.maximum(counts, 1)[:, None].astype(np.float32)
            codebooks.append(centroids)
            residual -= centroids[codes[:, level]]
        quantizer._codebooks = tuple(codebooks)
        return quantizer

    def distances(self, x: Float[np.ndarray, "N D"], prefix: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N K"]:
        """Returns the squared distance from what ``prefix`` leaves of each vector to each centroid of level l."""
        level = prefix.shape[1]
        return _squared_distances(x.astype(np.float32) - self.decode(prefix), self._fitted()[level])

    def encode(self, x: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N L"]:
        """Returns the nearest centroid of each level in turn (greedy, not the best sum)."""
        return complete_codes(self, x, np.empty((len(x), 0), dtype=np.int64))

    def decode(self, codes: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N D"]:
        """Returns the sum of the centroids of each row's codes; a prefix of a SID gives its coarser vector."""
        codebooks = self._fitted()
        total = np.zeros((len(codes), codebooks[0].shape[1]), dtype=np.float32)
        for level in range(codes.shape[1]):
            total += codebooks[level][codes[:, level]]
        return total

    def save(self, path: Path) -> None:
        """Writes ``codebook_0``, ``codebook_1`` ... as safetensors."""
        arrays = {f"codebook_{level}": centroids for level, centroids in enumerate(self._fitted())}
        settings = {
            "codebook_sizes": self._sizes,
            "num_iterations": self._num_iterations,
            "num_restarts": self._num_restarts,
        }
        write_arrays(path, arrays, {"kind": self.kind, "settings": json.dumps(settings)})

    @classmethod
    def load(cls, path: Path) -> "RQKMeans":
        """Returns the quantizer in ``path``.

        Raises:
            ArtifactError: if the file is missing, damaged or of another kind.
        """
        try:
            with safe_open(path, framework="np") as stored:
                metadata = stored.metadata() or {}
                if metadata.get("kind") != cls.kind:
                    raise ArtifactError(f"{path}: holds kind {metadata.get('kind')!r}, expected {cls.kind!r}")
                quantizer = cls(**json.loads(metadata["settings"]))
                names = [f"codebook_{level}" for level in range(len(quantizer._sizes))]
                quantizer._codebooks = tuple(stored.get_tensor(name) for name in names)
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ArtifactError(f"{path}: damaged quantizer: {error}") from None
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no such file; run itemic tokenize") from None
        return quantizer

    def _fitted(self) -> tuple[np.ndarray, ...]:
        if not self._codebooks:
            raise CatalogError("the quantizer has no codebooks yet; call fit first")
        return self._codebooks


def _kmeans(
    x: Float[np.ndarray, "N D"], num_codes: int, num_iterations: int, num_restarts: int, *, seed: int
) -> Float[np.ndarray, "K D"]:
    """Returns ``num_codes`` centroids; empty clusters are refilled by splitting large ones.

    It starts from random items and keeps the best of some runs. On residuals one run often ends with nearly all items
    on one code. k-means++ is no cure: it starts from the outliers, which then keep a code each.
    """
    import faiss

    kmeans = faiss.Kmeans(
        x.shape[1],
        num_codes,
        niter=num_iterations,
        nredo=num_restarts,
        seed=seed,
        # Few points a code are normal for a catalogue; without this faiss complains on stderr.
        min_points_per_centroid=1,
    )
    kmeans.train(x)
    return np.asarray(kmeans.centroids, dtype=np.float32).reshape(num_codes, x.shape[1])


def _squared_distances(x: Float[np.ndarray, "N D"], centroids: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "N K"]:
    """Returns ‖x − e‖² for every pair, through one matrix product."""
    squares = np.square(x).sum(axis=1)[:, None] + np.square(centroids).sum(axis=1)
    distances: np.ndarray = np.maximum(squares - 2 * (x @ centroids.T), 0)
    return distances
