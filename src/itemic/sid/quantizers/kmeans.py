"""One k-means, in growing numbers of dimensions and in pieces of rows. Knows nothing of levels or residuals.

Of our own because it is both faster and better than faiss's: see the log of experiments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import eigh
from scipy.sparse import csr_array

from itemic.sid.quantizers.protocol import pieces

__all__ = [
    "Clusters",
    "RowSource",
    "cluster_sums",
    "draw_rows",
    "group_sums",
    "half_costs",
    "kmeans",
    "lloyd",
    "moments",
    "nearest_codes",
    "read_rows",
    "renew_centroids",
]

_LEAST_WIDTH, _MOST_WIDTH = 4, 256
"""Leading dimensions that k-means begins with, and most of them before it takes all."""

_SPLIT = np.float32(1 / 1024)
"""How far the halves of a split cluster lie apart, as a share of the centroids' size. Default: faiss."""

_MOST_RENEWALS = 5
"""Most rounds of a refit. Default: by measurement."""

_WORTH_MOVING = 0.05
"""Least share of a code's own error that moving its centroid must save in a refit. Default: by measurement."""


@runtime_checkable
class RowSource(Protocol):
    """Vectors that are read a slice of rows at a time: an array, a mapped file, or residuals computed when read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and of dimensions."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Returns the vectors of some rows, as an array."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """What the vectors of each code add up to."""

    sums: Float[np.ndarray, "K D"]
    """Sum of the vectors."""
    counts: Int[np.ndarray, "K"]
    """How many there are."""
    squares: Float[np.ndarray, "K"]
    """Sum of their squared lengths."""

    def add(self, x: Float[np.ndarray, "n D"], codes: Int[np.ndarray, "n"]) -> None:
        """Adds some more vectors, in place."""
        num_codes = len(self.counts)
        self.sums[...] += group_sums(x, codes, num_codes)
        self.counts[...] += np.bincount(codes, minlength=num_codes)
        self.squares[...] += np.bincount(codes, np.einsum("nd,nd->n", x, x), num_codes)

    def means(self, otherwise: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "K D"]:
        """Returns the mean of each code's vectors, and ``otherwise`` where there are none."""
        counts = self.counts[:, None]
        means: np.ndarray = np.where(counts > 0, self.sums / np.maximum(counts, 1), otherwise).astype(np.float32)
        return means

    def worthwhile_means(self, centroids: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "K D"]:
        """Returns the means where they lower a code's error by more than 5 %, elsewhere the centroids themselves."""
        means = self.means(centroids)
        gains = self.counts * np.square(means - centroids).sum(axis=1)
        errors = self.squares - 2 * (centroids * self.sums).sum(axis=1)
        errors += self.counts * np.square(centroids).sum(axis=1)
        return np.where((gains > _WORTH_MOVING * np.maximum(errors, 0))[:, None], means, centroids)


def kmeans(x: RowSource, num_codes: int, num_iterations: int, rng: np.random.Generator) -> Float[np.ndarray, "K D"]:
    """Returns ``num_codes`` centroids.

    Lloyd's iterations run in the 4, 8, 16 ... leading principal dimensions and at last in all of them, each stage from
    the end of the one before, the first from random vectors ("progressive dimensions", as in faiss). The stages in few
    dimensions cost little and find the coarse shape; begun in all dimensions at once, k-means on the nearly orthogonal
    residuals of few items ends with most of them on one code. Empty clusters are refilled by splitting large ones.

    Args:
        x: What to cluster; read in pieces, and only the projection of what is in memory is kept besides.
        num_codes: K, at most the number of vectors.
        num_iterations: Lloyd iterations at each number of dimensions.
        rng: Of the random start.
    """
    num_rows, width = x.shape
    chosen = np.sort(rng.choice(num_rows, size=num_codes, replace=False))
    widths = list(_growing_widths(width))
    if not widths:
        return lloyd(x, read_rows(x, chosen), num_iterations)
    mean, basis = _principal_axes(x, widths[-1])
    projected: RowSource = _Projected(x, mean, basis)
    if isinstance(x, np.ndarray):
        projected = _in_memory(projected)
    centroids = read_rows(projected, chosen)[:, : widths[0]]
    for stage in widths:
        centroids = np.pad(centroids, ((0, 0), (0, stage - centroids.shape[1])))
        centroids = lloyd(_Leading(projected, stage), centroids, num_iterations)
    return lloyd(x, centroids @ basis.T + mean, num_iterations)


def lloyd(x: RowSource, centroids: Float[np.ndarray, "K D"], num_iterations: int) -> Float[np.ndarray, "K D"]:
    """Returns the centroids after some rounds of: give each vector its nearest centroid, move it to their mean.

    A centroid that no vector is nearest to moves next to that of a large cluster, so that they share its vectors.
    """
    for _ in range(num_iterations):
        clusters = _clusters(x, centroids)
        centroids = clusters.means(np.zeros_like(centroids))
        _split_largest(centroids, clusters.counts)
    return centroids


def renew_centroids(x: RowSource, start: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "K D"]:
    """Returns the centroids of an earlier fit for vectors that have changed since, so that most codes stay.

    Lloyd's rounds, but a centroid moves to the mean of its vectors only where that lowers its code's error by more than
    5 %, and one that no vector is nearest to stays where it is. After five rounds, or as soon as none moves, it ends.

    Args:
        x: What to cluster, read in pieces.
        start: The earlier centroids.
    """
    centroids = start.astype(np.float32)
    for _ in range(_MOST_RENEWALS):
        moved = _clusters(x, centroids).worthwhile_means(centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def draw_rows(x: RowSource, num_rows: int, rng: np.random.Generator) -> Float[np.ndarray, "n D"]:
    """Returns float32 copies of ``num_rows`` different vectors drawn at random, in their order; all if there are fewer.

    Drawn rows are read in order and in pieces, which is kind to a mapped file.
    """
    if num_rows >= x.shape[0]:
        return _in_memory(x)
    return read_rows(x, np.sort(rng.choice(x.shape[0], size=num_rows, replace=False)))


def read_rows(x: RowSource, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n D"]:
    """Returns some vectors of a source as float32; the rows must be sorted."""
    drawn = np.empty((len(rows), x.shape[1]), dtype=np.float32)
    if isinstance(x, np.ndarray):
        for part in pieces(len(rows), cells_a_row=x.shape[1]):
            drawn[part] = x[rows[part]]
        return drawn
    for piece in pieces(x.shape[0], cells_a_row=x.shape[1]):
        first, last = np.searchsorted(rows, (piece.start, piece.stop))
        if first < last:
            drawn[first:last] = x[piece][rows[first:last] - piece.start]
    return drawn


def half_costs(
    centroids: Float[np.ndarray, "K D"], prices: Float[np.ndarray, "K"] | None = None
) -> Float[np.ndarray, "K"]:
    """Returns (‖e_k‖² + w_k)/2: what a code costs whatever the vector is."""
    squares = np.square(centroids).sum(axis=1)
    half: np.ndarray = (squares if prices is None else squares + prices) / 2
    return half


def group_sums(
    x: Float[np.ndarray, "n D"], codes: Int[np.ndarray, "n"], num_codes: int
) -> Float[np.ndarray, "{num_codes} D"]:
    """Returns the sum of the vectors of each code."""
    ones = np.ones(len(codes), dtype=np.float32)
    members = csr_array((ones, codes, np.arange(len(codes) + 1)), shape=(len(codes), num_codes))
    return np.asarray(members.T @ x)


def nearest_codes(x: RowSource, centroids: Float[np.ndarray, "K D"]) -> Int[np.ndarray, "N"]:
    """Returns the nearest centroid of each vector."""
    codes = np.empty(x.shape[0], dtype=np.int64)
    offsets = half_costs(centroids)
    for rows in pieces(x.shape[0], cells_a_row=max(centroids.shape)):
        codes[rows] = _nearest(np.asarray(x[rows], dtype=np.float32), centroids, offsets)
    return codes


def moments(x: RowSource) -> tuple[Float[np.ndarray, "D"], Float[np.ndarray, "D D"]]:
    """Returns mean and covariance, in float64."""
    num_rows, width = x.shape
    total, products = np.zeros(width), np.zeros((width, width))
    for rows in pieces(num_rows, cells_a_row=width):
        total += np.asarray(x[rows], dtype=np.float32).sum(axis=0)
    mean = total / num_rows
    for rows in pieces(num_rows, cells_a_row=width):
        centred = np.asarray(x[rows], dtype=np.float32) - mean.astype(np.float32)
        products += centred.T @ centred
    return mean, products / num_rows


def cluster_sums(x: RowSource, codes: Int[np.ndarray, "N"], num_codes: int) -> Clusters:
    """Returns what the vectors of each code add up to."""
    clusters = _no_clusters(num_codes, x.shape[1])
    for rows in pieces(x.shape[0], cells_a_row=x.shape[1]):
        clusters.add(np.asarray(x[rows], dtype=np.float32), codes[rows])
    return clusters


def _clusters(x: RowSource, centroids: Float[np.ndarray, "K D"]) -> Clusters:
    """Returns what the vectors nearest to each centroid add up to."""
    num_codes, width = centroids.shape
    offsets = half_costs(centroids)
    clusters = _no_clusters(num_codes, width)
    for rows in pieces(x.shape[0], cells_a_row=max(num_codes, width)):
        piece = np.asarray(x[rows], dtype=np.float32)
        clusters.add(piece, _nearest(piece, centroids, offsets))
    return clusters


def _no_clusters(num_codes: int, width: int) -> Clusters:
    return Clusters(
        sums=np.zeros((num_codes, width)), counts=np.zeros(num_codes, dtype=np.int64), squares=np.zeros(num_codes)
    )


def _nearest(
    x: Float[np.ndarray, "n D"], centroids: Float[np.ndarray, "K D"], offsets: Float[np.ndarray, "K"]
) -> Int[np.ndarray, "n"]:
    scores = x @ centroids.T
    scores -= offsets
    return np.asarray(scores.argmax(axis=1))


def _in_memory(x: RowSource) -> Float[np.ndarray, "N D"]:
    """Returns all vectors of a source as one array."""
    whole = np.empty(x.shape, dtype=np.float32)
    for rows in pieces(x.shape[0], cells_a_row=x.shape[1]):
        whole[rows] = x[rows]
    return whole


def _split_largest(centroids: Float[np.ndarray, "K D"], counts: Int[np.ndarray, "K"]) -> None:
    """Moves each empty cluster's centroid next to that of a large one, in place, so that they share its items."""
    # Where there are fewer clusters to split than to fill, the rest wait for the next round.
    empty = np.flatnonzero(counts == 0)[: np.count_nonzero(counts)]
    largest = np.argsort(-counts, kind="stable")[: len(empty)]
    # Not a share of the centroid itself, as in faiss: one at zero, the mean of all residuals say, would never split.
    apart = np.where(np.arange(centroids.shape[1]) % 2 == 0, _SPLIT, -_SPLIT) * np.sqrt(
        np.square(centroids).mean(axis=0)
    )
    centroids[empty] = centroids[largest] - apart
    centroids[largest] += apart


def _growing_widths(width: int) -> Iterator[int]:
    """Yields 4, 8, 16 ... while that is no more than half of all dimensions."""
    stage = _LEAST_WIDTH
    while stage <= min(_MOST_WIDTH, width // 2):
        yield stage
        stage *= 2


def _principal_axes(x: RowSource, num_axes: int) -> tuple[Float[np.ndarray, "D"], Float[np.ndarray, "D d"]]:
    """Returns the mean and the axes of greatest variance, greatest first."""
    mean, covariance = moments(x)
    width = len(mean)
    _, axes = eigh(covariance.astype(np.float32), subset_by_index=[width - num_axes, width - 1])
    return mean.astype(np.float32), np.ascontiguousarray(axes[:, ::-1])


class _Projected:
    """Vectors along some axes, computed when they are read."""

    def __init__(self, x: RowSource, mean: Float[np.ndarray, "D"], basis: Float[np.ndarray, "D d"]) -> None:
        self._x, self._basis = x, basis
        self._shift = mean @ basis

    @property
    def shape(self) -> tuple[int, ...]:
        return self._x.shape[0], self._basis.shape[1]

    def __getitem__(self, rows: slice, /) -> Any:
        first, last, _ = rows.indices(self.shape[0])
        projected = np.empty((last - first, self._basis.shape[1]), dtype=np.float32)
        # Rows that are short here may be long where they come from.
        for part in pieces(last - first, cells_a_row=self._x.shape[1]):
            piece = np.asarray(self._x[first + part.start : first + part.stop], dtype=np.float32)
            projected[part] = piece @ self._basis - self._shift
        return projected


class _Leading:
    """The first dimensions of every vector."""

    def __init__(self, x: RowSource, width: int) -> None:
        self._x, self._width = x, width

    @property
    def shape(self) -> tuple[int, ...]:
        return self._x.shape[0], self._width

    def __getitem__(self, rows: slice, /) -> Any:
        return self._x[rows][:, : self._width]
