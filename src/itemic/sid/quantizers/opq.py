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

from itemic.sid.quantizers.kmeans import group_sums, kmeans
from itemic.sid.quantizers.residual import encode_residuals

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
    y = x @ rotation
    codebooks = [
        kmeans(np.ascontiguousarray(y[:, block]), size, num_iterations, rng)
        for size, block in zip(codebook_sizes, blocks, strict=True)
    ]
    for _ in range(num_rotations):
        decoded = _improve(y, codebooks, blocks)
        left, _, right = np.linalg.svd(x.T @ decoded)
        rotation = left @ right
        y = x @ rotation
    _improve(y, codebooks, blocks)
    return ProductCodebooks(rotation=rotation, codebooks=tuple(codebooks))


def refit_opq(
    x: Float[np.ndarray, "N D"], start: ProductCodebooks, num_iterations: int, rng: np.random.Generator
) -> ProductCodebooks:
    """Returns the codebooks after more k-means on ``x`` in the same subspaces, so that codes keep their meaning."""
    y = x @ start.rotation
    codebooks = [
        kmeans(np.ascontiguousarray(y[:, block]), len(codebook), num_iterations, rng, start=codebook)
        for codebook, block in zip(start.codebooks, subspaces(x.shape[1], len(start.codebooks)), strict=True)
    ]
    return ProductCodebooks(rotation=start.rotation, codebooks=tuple(codebooks))


def balanced_rotation(x: Float[np.ndarray, "N D"], widths: Sequence[int]) -> Float[np.ndarray, "D D"]:
    """Returns principal axes in an order that gives the subspaces of these widths variances of like product.

    The axes are dealt out by falling variance, each to the subspace whose product of variances is least so far and
    that has room: the best rotation for a Gaussian (Ge et al., section 3.2.3).
    """
    centred = x - x.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(x))
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


def _improve(
    y: Float[np.ndarray, "N D"], codebooks: list[np.ndarray], blocks: Sequence[slice]
) -> Float[np.ndarray, "N D"]:
    """Returns what ``y`` decodes to after one step of k-means in every subspace, which replaces ``codebooks``."""
    decoded = np.empty_like(y)
    for number, block in enumerate(blocks):
        part, codebook = np.ascontiguousarray(y[:, block]), codebooks[number]
        codes = encode_residuals(part, [codebook])[:, 0]
        counts = np.bincount(codes, minlength=len(codebook))[:, None]
        means = group_sums(part, codes, len(codebook)) / np.maximum(counts, 1).astype(np.float32)
        # A code without any vector keeps its centroid.
        codebooks[number] = np.where(counts > 0, means, codebook)
        decoded[:, block] = codebooks[number][codes]
    return decoded
