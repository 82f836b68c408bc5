"""One k-means, in growing numbers of dimensions and in pieces of rows. Knows nothing of levels or residuals.

Of our own because it is both faster and better than faiss's: see the log of experiments.
"""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import eigh
from scipy.sparse import csr_array

from itemic.sid.quantizers.protocol import pieces

__all__ = ["RowSource", "draw_rows", "group_sums", "half_costs", "kmeans", "read_rows"]

_LEAST_WIDTH, _MOST_WIDTH = 4, 256
"""Leading dimensions that k-means begins with, and most of them before it takes all."""

_SPLIT = np.float32(1 / 1024)
"""How far the halves of a split cluster lie apart, as a share of the centroids' size. Default: faiss."""


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


def kmeans(
    x: RowSource,
    num_codes: int,
    num_iterations: int,
    rng: np.random.Generator,
    *,
    start: Float[np.ndarray, "K D"] | None = None,
) -> Float[np.ndarray, "K D"]:
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
        start: Centroids to begin with, in all dimensions at once.
    """
    if start is not None:
        return _lloyd(x, np.array(start, dtype=np.float32), num_iterations)
    num_rows, width = x.shape
    chosen = np.sort(rng.choice(num_rows, size=num_codes, replace=False))
    widths = list(_growing_widths(width))
    if widths:
        mean, basis = _principal_axes(x, widths[-1])
        projected: RowSource = _Projected(x, mean, basis)
        if isinstance(x, np.ndarray):
            projected = np.concatenate([projected[rows] for rows in pieces(num_rows)])
        centroids = read_rows(projected, chosen)[:, : widths[0]]
        for stage in widths:
            centroids = np.pad(centroids, ((0, 0), (0, stage - centroids.shape[1])))
            centroids = _lloyd(_Leading(projected, stage), centroids, num_iterations)
        return _lloyd(x, centroids @ basis.T + mean, num_iterations)
    return _lloyd(x, read_rows(x, chosen), num_iterations)


def draw_rows(x: RowSource, num_rows: int, rng: np.random.Generator) -> Float[np.ndarray, "n D"]:
    """Returns float32 copies of ``num_rows`` different vectors drawn at random, in their order; all if there are fewer.

    Drawn rows are read in order and in pieces, which is kind to a mapped file.
    """
    chosen = np.arange(x.shape[0])
    if num_rows < x.shape[0]:
        chosen = np.sort(rng.choice(x.shape[0], size=num_rows, replace=False))
    return read_rows(x, chosen)


def read_rows(x: RowSource, rows: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n D"]:
    """Returns some vectors of a source as float32; the rows must be sorted."""
    drawn = np.empty((len(rows), x.shape[1]), dtype=np.float32)
    if isinstance(x, np.ndarray):
        for part in pieces(len(rows)):
            drawn[part] = x[rows[part]]
        return drawn
    for piece in pieces(x.shape[0]):
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


def _lloyd(x: RowSource, centroids: Float[np.ndarray, "K D"], num_iterations: int) -> Float[np.ndarray, "K D"]:
    """Returns the centroids after some rounds of: give each vector its nearest centroid, move it to their mean."""
    num_codes, width = centroids.shape
    for _ in range(num_iterations):
        offsets = half_costs(centroids)
        sums = np.zeros((num_codes, width), dtype=np.float64)
        counts = np.zeros(num_codes, dtype=np.int64)
        for rows in pieces(x.shape[0]):
            piece = np.asarray(x[rows], dtype=np.float32)
            scores = piece @ centroids.T
            scores -= offsets
            codes = scores.argmax(axis=1)
            sums += group_sums(piece, codes, num_codes)
            counts += np.bincount(codes, minlength=num_codes)
        centroids = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        _split_largest(centroids, counts)
    return centroids


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
    num_rows, width = x.shape
    total, products = np.zeros(width), np.zeros((width, width))
    for rows in pieces(num_rows):
        piece = np.asarray(x[rows], dtype=np.float32)
        total += piece.sum(axis=0)
        products += piece.T @ piece
    mean = total / num_rows
    covariance = products / num_rows - np.outer(mean, mean)
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
        return np.asarray(self._x[rows], dtype=np.float32) @ self._basis - self._shift


class _Leading:
    """The first dimensions of every vector."""

    def __init__(self, x: RowSource, width: int) -> None:
        self._x, self._width = x, width

    @property
    def shape(self) -> tuple[int, ...]:
        return self._x.shape[0], self._width

    def __getitem__(self, rows: slice, /) -> Any:
        return self._x[rows][:, : self._width]
