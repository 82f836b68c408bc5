"""Hierarchical k-means: the items of every node are clustered anew into the node's children; a SID is a path.

As the document ids of DSI (Tay et al. 2022, "Transformer memory as a differentiable search index"). Unlike in residual
quantizers a code means nothing without the codes before it. Knows nothing of collisions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from itemic.core.config import config_from_mapping
from itemic.core.errors import ArtifactError, CatalogError, ConfigError
from itemic.core.progress import track
from itemic.sid.order import run_starts
from itemic.sid.quantizers.kmeans import (
    RowSource,
    group_sums,
    kmeans,
    nearest_codes,
    read_rows,
    renew_centroids,
)
from itemic.sid.quantizers.protocol import Quantizer, check_codebook_sizes, check_vectors, pieces
from itemic.sid.quantizers.residual import check_start, squared_distances
from itemic.sid.quantizers.stored import read_quantizer, write_quantizer

__all__ = ["HierarchicalKMeans", "HierarchicalKMeansConfig"]

_ROWS_AT_ONCE = 1 << 16
"""Rows coded at once: many, for each node then has several of them."""


@dataclass(frozen=True, kw_only=True)
class HierarchicalKMeansConfig:
    """Settings of hierarchical k-means."""

    kind: Literal["hierarchical-kmeans"] = "hierarchical-kmeans"
    """Names this quantizer in a recipe."""
    num_iterations: int = 5
    """k-means iterations at each number of dimensions (4, 8, 16 ... all) in each node. Default: as residual k-means."""
    max_points_per_code: int = 256
    """Vectors drawn for the k-means of a node, as a multiple of its number of children; 0 learns from all of the node.
    Default: faiss."""

    def __post_init__(self) -> None:
        if self.num_iterations < 1 or self.max_points_per_code < 0:
            raise ConfigError(
                f"num_iterations {self.num_iterations}, max_points_per_code {self.max_points_per_code}: expected at "
                "least 1 iteration, and 0 or more points"
            )


@dataclass(frozen=True, kw_only=True)
class _Level:
    """The children of all nodes of one depth, node by node: a child's code is its place among them."""

    offsets: Int[np.ndarray, "P_plus_1"]
    centroids: Float[np.ndarray, "M D"]


class HierarchicalKMeans:
    """A tree of centroids: c_l is the nearest child of the node that c_0 ... c_{l−1} lead to.

    A node of more than K_l items gets up to K_l children by k-means; one of fewer gets a child for each distinct item.
    Deep nodes may so be the items themselves, and the file as large as their vectors. The other codes of a node have
    no centroid. They cost twice what the node's farthest child costs plus the squared distance to the node's centroid:
    more than any child, so ``encode`` never takes one, but they remain free places for items that must be kept apart.
    A path beyond the tree decodes to the last node on it.
    """

    kind: ClassVar[str] = "hierarchical-kmeans"

    def __init__(self, codebook_sizes: Sequence[int], config: HierarchicalKMeansConfig | None = None) -> None:
        """Keeps the settings; ``fit`` makes the tree.

        Raises:
            ConfigError: if there is no level, or a codebook without a code.
        """
        self._sizes = check_codebook_sizes(codebook_sizes)
        self.config = config or HierarchicalKMeansConfig()
        self._root = np.empty((0, 0), dtype=np.float32)
        self._levels: tuple[_Level, ...] = ()

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes K of each level: the most children of a node."""
        return self._sizes

    @property
    def codebooks(self) -> tuple[Float[np.ndarray, "_ D"], ...]:
        """For each code of each level the mean, over the nodes it leads to, of centroid minus parent's centroid.

        At the first level it is the centroid itself. A summary: a code has another centroid in every node. Zero for
        codes that lead nowhere.
        """
        books = []
        for depth, level in enumerate(self._levels):
            counts = np.diff(level.offsets)
            codes = np.arange(len(level.centroids)) - np.repeat(level.offsets[:-1], counts)
            steps = level.centroids - np.repeat(self._centroids(depth), counts, axis=0) if depth else level.centroids
            size = self._sizes[depth]
            carried = np.maximum(np.bincount(codes, minlength=size), 1).astype(np.float32)
            books.append(group_sums(steps, codes, size) / carried[:, None])
        return tuple(books)

    def fit(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, *, start: Quantizer | None = None
    ) -> "HierarchicalKMeans":
        """Returns itself, with a tree grown from ``x``, depth by depth.

        Args:
            x: What to learn from; the items of one node are in memory at a time, of large nodes a sample.
            rng: Of the samples and of the random starts.
            start: A HierarchicalKMeans of the same sizes. Its tree keeps its shape, so that a path keeps its meaning;
                a centroid moves to the mean of its items where that lowers their error by more than 5 %.

        Raises:
            CatalogError: if there are fewer vectors than codes in a codebook, or ``start`` does not fit.
            DataError: if a vector is not finite.
        """
        check_vectors(x, self._sizes)
        if start is not None:
            check_start(self, start, x.shape[1])
        self._root = _mean(x)[None]
        self._levels = ()
        node = np.zeros(len(x), dtype=np.int64)
        for depth, _ in enumerate(track(self._sizes, "growing the tree")):
            before = start._levels[depth] if isinstance(start, HierarchicalKMeans) else None
            children = [
                self._children(x, rows, depth, parent, rng) if before is None else _moved(x, rows, before, parent)
                for parent, rows in enumerate(_rows_of_nodes(node, len(self._centroids(depth))))
            ]
            offsets = np.cumsum([0, *map(len, children)])
            self._levels = (*self._levels, _Level(offsets=offsets, centroids=np.concatenate(children)))
            node = self._step(x, node, depth)
        return self

    def distances(self, x: Float[np.ndarray, "N D"], prefix: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N K"]:
        """Returns the squared distance to each child of the node that ``prefix`` leads to.

        Codes without a child cost twice the farthest child plus the squared distance to the node itself.
        """
        size = self._sizes[prefix.shape[1]]
        distances = np.empty((len(x), size), dtype=np.float32)
        for rows in pieces(len(x), cells_a_row=max(size, x.shape[1])):
            distances[rows] = self._distances(np.asarray(x[rows], dtype=np.float32), prefix[rows])
        return distances

    def encode(self, x: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N L"]:
        """Returns the nearest child at every node from the root down."""
        self._fitted()
        codes = np.empty((len(x), len(self._sizes)), dtype=np.int64)
        for rows in pieces(len(x), _ROWS_AT_ONCE):
            piece = x[rows].astype(np.float32)
            node = np.zeros(len(piece), dtype=np.int64)
            for depth, level in enumerate(self._levels):
                child = self._step(piece, node, depth)
                codes[rows, depth] = child - level.offsets[node]
                node = child
        return codes

    def decode(self, codes: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N D"]:
        """Returns the centroid of the node that each row of codes leads to, that of the root for no codes."""
        node, reached = self._walk(codes)
        vectors = np.empty((len(codes), self._root.shape[1]), dtype=np.float32)
        for depth in np.unique(reached).tolist():
            rows = reached == depth
            vectors[rows] = self._centroids(depth)[node[rows]]
        return vectors

    def save(self, path: Path) -> None:
        """Writes ``root`` and, for every level, ``offsets_0`` ... and ``centroids_0`` ... as safetensors."""
        self._fitted()
        arrays = {"root": self._root}
        for depth, level in enumerate(self._levels):
            arrays |= {f"offsets_{depth}": level.offsets, f"centroids_{depth}": level.centroids}
        write_quantizer(path, self.config, self._sizes, arrays)

    @classmethod
    def load(cls, path: Path) -> "HierarchicalKMeans":
        """Returns the quantizer in ``path``.

        Raises:
            ArtifactError: if the file is missing, damaged or of another kind.
        """
        stored = read_quantizer(path, cls.kind)
        config = config_from_mapping(HierarchicalKMeansConfig, stored.config, source=str(path))
        quantizer = cls(stored.codebook_sizes, config)
        arrays = stored.arrays
        try:
            quantizer._root = arrays["root"]
            quantizer._levels = tuple(
                _Level(offsets=arrays[f"offsets_{depth}"], centroids=arrays[f"centroids_{depth}"])
                for depth in range(len(stored.codebook_sizes))
            )
        except KeyError as error:
            raise ArtifactError(f"{path}: damaged quantizer: {error} is missing") from None
        return quantizer

    def _distances(self, x: Float[np.ndarray, "n D"], prefix: Int[np.ndarray, "n l"]) -> Float[np.ndarray, "n K"]:
        depth = prefix.shape[1]
        node, reached = self._walk(prefix)
        here = np.square(x - self.decode(prefix)).sum(axis=1)
        distances = np.repeat(here[:, None], self._sizes[depth], axis=1)
        level = self._levels[depth]
        for parent, rows in _nodes_and_rows(np.where(reached == depth, node, -1)):
            centroids = level.centroids[level.offsets[parent] : level.offsets[parent + 1]]
            near = squared_distances(x[rows], centroids)
            distances[rows] += 2 * near.max(axis=1, keepdims=True)
            distances[rows, : len(centroids)] = near
        return distances

    def _children(
        self, x: RowSource, rows: Int[np.ndarray, "n"], depth: int, parent: int, rng: np.random.Generator
    ) -> Float[np.ndarray, "k D"]:
        """Returns the centroids of a new node's children, all of which are nearest to some of its items."""
        num_codes = self._sizes[depth]
        if len(rows) == 0:
            # Rounding sent an item between two equally near nodes to the other one: every node still needs a child.
            return self._centroids(depth)[parent : parent + 1]
        if len(rows) <= num_codes:
            items = read_rows(x, rows)
            return items if len(items) == 1 else np.unique(items, axis=0)
        points = self.config.max_points_per_code * num_codes
        if 0 < points < len(rows):
            rows = np.sort(rng.choice(rows, size=points, replace=False))
        items = read_rows(x, rows)
        centroids = kmeans(items, num_codes, self.config.num_iterations, rng)
        used: np.ndarray = centroids[np.unique(nearest_codes(items, centroids))]
        return used

    def _step(self, x: RowSource, node: Int[np.ndarray, "N"], depth: int) -> Int[np.ndarray, "N"]:
        """Returns the nearest child of each row's node, numbered among all nodes of the next depth."""
        level = self._levels[depth]
        child: np.ndarray = level.offsets[node]
        undecided = np.where(np.diff(level.offsets)[node] > 1, node, -1)
        for parent, rows in _nodes_and_rows(undecided):
            centroids = level.centroids[level.offsets[parent] : level.offsets[parent + 1]]
            child[rows] += nearest_codes(_Rows(x, rows), centroids)
        return child

    def _walk(self, codes: Int[np.ndarray, "N l"]) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]]:
        """Returns the last node on each row's path, and its depth: less than l where the path leaves the tree."""
        levels = self._fitted()
        node, reached = np.zeros(len(codes), dtype=np.int64), np.zeros(len(codes), dtype=np.int64)
        for depth in range(codes.shape[1]):
            offsets = levels[depth].offsets
            inside = np.flatnonzero(reached == depth)
            inside = inside[codes[inside, depth] < np.diff(offsets)[node[inside]]]
            node[inside] = offsets[node[inside]] + codes[inside, depth]
            reached[inside] += 1
        return node, reached

    def _centroids(self, depth: int) -> Float[np.ndarray, "M D"]:
        """Returns the centroids of all nodes of a depth, the root's for 0."""
        return self._levels[depth - 1].centroids if depth else self._root

    def _fitted(self) -> tuple[_Level, ...]:
        if not self._levels:
            raise CatalogError("the quantizer has no codebooks yet; call fit first")
        return self._levels


class _Rows:
    """Some vectors of a source, read when they are asked for; the rows must be sorted."""

    def __init__(self, x: RowSource, rows: Int[np.ndarray, "n"]) -> None:
        self._x, self._rows = x, rows

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._rows), self._x.shape[1]

    def __getitem__(self, rows: slice, /) -> Any:
        return read_rows(self._x, self._rows[rows])


def _moved(x: RowSource, rows: Int[np.ndarray, "n"], before: _Level, parent: int) -> Float[np.ndarray, "k D"]:
    """Returns a node's children as they were, those moved to the mean of their items for which it pays."""
    centroids = before.centroids[before.offsets[parent] : before.offsets[parent + 1]]
    return renew_centroids(_Rows(x, rows), centroids) if len(rows) else centroids


def _mean(x: RowSource) -> Float[np.ndarray, "D"]:
    total = np.zeros(x.shape[1])
    for rows in pieces(x.shape[0], cells_a_row=x.shape[1]):
        total += x[rows].sum(axis=0, dtype=np.float64)
    return (total / x.shape[0]).astype(np.float32)


def _nodes_and_rows(node: Int[np.ndarray, "N"]) -> Iterator[tuple[int, Int[np.ndarray, "n"]]]:
    """Yields every node that has rows, and its rows in order; those of node −1 are left out."""
    order = np.argsort(node, kind="stable")
    order = order[np.searchsorted(node[order], 0) :]
    starts = np.flatnonzero(run_starts(node[order][:, None]))
    for first, last in pairwise([*starts.tolist(), len(order)]):
        yield int(node[order[first]]), order[first:last]


def _rows_of_nodes(node: Int[np.ndarray, "N"], num_nodes: int) -> Iterator[Int[np.ndarray, "n"]]:
    """Yields the rows of every node in turn, none for some."""
    order = np.argsort(node, kind="stable")
    for first, last in pairwise(np.searchsorted(node[order], np.arange(num_nodes + 1)).tolist()):
        yield order[first:last]
