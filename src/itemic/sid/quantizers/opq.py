"""Optimised product quantization (OPQ): a rotation, and a codebook for each of the subspaces it makes.

Knows nothing of residuals or levels. faiss has OPQ too, but only with codebooks of one size, a power of two, in
subspaces of one width; codebooks here may differ.

Source: Ge, He, Ke and Sun, "Optimized Product Quantization" (TPAMI 2014): section 3.1 without assumption on the data,
begun at section 3.2's solution for a Gaussian.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from itemic.sid.quantizers.kmeans import group_sums, kmeans, moments, nearest_codes, renew_centroids
from itemic.sid.quantizers.protocol import pieces

__all__ = ["ProductCodebooks", "balanced_rotation", "fit_opq", "refit_opq", "subspaces"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ProductCodebooks:
    """A fitted OPQ: y = x R, cut into subspaces, each with a codebook of its own."""

    rotation: Float[np.ndarray, "D D"]
    """R, orthogonal; its columns are the axes of the subspaces, in their order."""
    codebooks: tuple[Float[np.ndarray, "_ _"], ...]
    """Centroids of each subspace, in its own coordinates."""


def subspaces(width: int, num_subspaces: int) -> list[slice]:
    """Returns which of the ``width`` rotated coordinates belong to each subspace; widths differ by at most one."""
    ends = [width * number // num_subspaces for number in range(num_subspaces + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


def fit_opq(
    x: Float[np.ndarray, "N D"],
    codebook_sizes: Sequence[int],
    num_iterations: int,
    num_rotations: int,
    rng: np.random.Generator,
) -> ProductCodebooks:
    """Returns a rotation and codebooks that make the error Σ‖x R − ŷ‖² small.

    From the balanced rotation and a k-means in every subspace, it alternates: every centroid becomes the mean of its
    vectors; then the rotation becomes the best for the decoded vectors ŷ, R = U Vᵀ with U S Vᵀ = Xᵀ Ŷ (orthogonal
    Procrustes). No step makes the error larger.

    Args:
        x: What to learn from, all of it in memory.
        codebook_sizes: Number of codes of each subspace.
        num_iterations: Of the k-means that the codebooks begin at.
        num_rotations: How often the rotation is improved.
        rng: Of the k-means.
    """
    blocks = subspaces(x.shape[1], len(codebook_sizes))
    rotation = balanced_rotation(x, [block.stop - block.start for block in blocks])
    codebooks = [
        kmeans(_part_of(x, rotation, block), size, num_iterations, rng)
        for size, block in zip(codebook_sizes, blocks, strict=True)
    ]
    for _ in range(num_rotations):
        left, _, right = np.linalg.svd(_improve(x, rotation, codebooks, blocks))
        rotation = left @ right
    _improve(x, rotation, codebooks, blocks)
    return ProductCodebooks(rotation=rotation, codebooks=tuple(codebooks))


def refit_opq(x: Float[np.ndarray, "N D"], start: ProductCodebooks) -> ProductCodebooks:
    """Returns the codebooks renewed for ``x`` in the same subspaces, so that codes keep their meaning."""
    codebooks = [
        renew_centroids(_part_of(x, start.rotation, block), codebook)
        for codebook, block in zip(start.codebooks, subspaces(x.shape[1], len(start.codebooks)), strict=True)
    ]
    return ProductCodebooks(rotation=start.rotation, codebooks=tuple(codebooks))


def balanced_rotation(x: Float[np.ndarray, "N D"], widths: Sequence[int]) -> Float[np.ndarray, "D D"]:
    """Returns principal axes in an order that gives the subspaces of these widths variances of like product.

    The axes are dealt out by falling variance, each to the subspace whose product of variances is least so far and
    that has room: the best rotation for a Gaussian (Ge et al., section 3.2.3).
    """
    variances, axes = np.linalg.eigh(moments(x)[1].astype(np.float32))
    # Only to keep log finite where the vectors do not vary.
    logs = np.log(np.maximum(variances, np.finfo(np.float32).tiny))
    # Logs above zero, so that every axis counts and a subspace does not stay behind for having got a small one.
    logs -= logs.min() - 1
    dealt: list[list[int]] = [[] for _ in widths]
    for axis in reversed(range(len(variances))):
        open_ones = [number for number, width in enumerate(widths) if len(dealt[number]) < width]
        dealt[min(open_ones, key=lambda number: logs[dealt[number]].sum())].append(axis)
    rotation: np.ndarray = axes[:, np.concatenate(dealt).astype(np.int64)].astype(np.float32)
    return rotation


def _part_of(x: Float[np.ndarray, "N D"], rotation: Float[np.ndarray, "D D"], block: slice) -> Float[np.ndarray, "N d"]:
    """Returns the vectors in one subspace."""
    part = np.empty((len(x), block.stop - block.start), dtype=np.float32)
    for rows in pieces(len(x), cells_a_row=x.shape[1]):
        # Not x @ rotation[:, block]: identical rows would differ in the last digit, and so could share two centroids.
        part[rows] = (x[rows] @ rotation)[:, block]
    return part


def _improve(
    x: Float[np.ndarray, "N D"],
    rotation: Float[np.ndarray, "D D"],
    codebooks: list[np.ndarray],
    blocks: Sequence[slice],
) -> Float[np.ndarray, "D D"]:
    """Returns Xᵀ Ŷ after one step of k-means in every subspace, which replaces ``codebooks``.

    As Σ_k (Σ_{i has k} x_i) ŷ_kᵀ in every subspace, so that neither y = x R nor ŷ is ever held whole.
    """
    products = np.empty(rotation.shape, dtype=np.float32)
    for number, block in enumerate(blocks):
        codebook = codebooks[number]
        sums, counts = np.zeros((len(codebook), len(rotation))), np.zeros(len(codebook), dtype=np.int64)
        for rows in pieces(len(x), cells_a_row=max(len(codebook), len(rotation))):
            codes = nearest_codes((x[rows] @ rotation)[:, block], codebook)
            sums += group_sums(x[rows], codes, len(codebook))
            counts += np.bincount(codes, minlength=len(codebook))
        means = sums @ rotation[:, block] / np.maximum(counts, 1)[:, None]
        # A code without any vector keeps its centroid.
        codebooks[number] = np.where(counts[:, None] > 0, means, codebook).astype(np.float32)
        products[:, block] = sums.T @ codebooks[number]
    return products
