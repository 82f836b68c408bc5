"""Vector quantization as pure functions of tensors: which code, and how gradients pass the choice.

Knows nothing of networks, levels, optimisers or devices. Colliding items are balanced by a Sinkhorn of their own
(``collisions.sinkhorn``): many small tables in float64 and without torch, not one of a batch on the network's device.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "nearest_codes",
    "pairwise_distances",
    "rotate_to",
    "sinkhorn_codes",
    "sinkhorn_plan",
    "straight_through",
]

_TINY = 1e-12


def pairwise_distances(x: Float[Tensor, "B D"], codebook: Float[Tensor, "K D"]) -> Float[Tensor, "B K"]:
    """Returns ‖x − e‖² for every pair, through one matrix product."""
    squares = x.square().sum(dim=1, keepdim=True) + codebook.square().sum(dim=1)
    return torch.addmm(squares, x, codebook.T, alpha=-2).clamp_(min=0)


def nearest_codes(x: Float[Tensor, "B D"], codebook: Float[Tensor, "K D"]) -> Int[Tensor, "B"]:
    """Returns argmin_k ‖x − e_k‖²; ‖x‖² is left out, for it is the same for every code."""
    return torch.addmm(codebook.square().sum(dim=1), x, codebook.T, alpha=-2).argmin(dim=1)


def sinkhorn_plan(distances: Float[Tensor, "B K"], epsilon: float, num_iterations: int) -> Float[Tensor, "B K"]:
    """Returns the entropic transport plan whose rows sum to 1 and whose columns sum to B / K, nearly.

    P = diag(u) exp(−d / ε) diag(v), u and v found by Sinkhorn and Knopp's alternation (Cuturi, arXiv 1306.0895), in the
    log domain so that a small ε neither under- nor overflows. Columns are met last, rows as far as it has converged.

    Args:
        distances: Costs, already scaled to about [−1, 1].
        epsilon: Strength of the entropy; the smaller, the harder the assignment and the slower the convergence.
        num_iterations: Alternations.
    """
    scores = distances / -epsilon
    log_share = math.log(len(distances) / distances.shape[1])
    for _ in range(num_iterations):
        scores = scores - scores.logsumexp(dim=1, keepdim=True)
        scores = scores - scores.logsumexp(dim=0, keepdim=True) + log_share
    return scores.exp()


def sinkhorn_codes(
    x: Float[Tensor, "B D"], codebook: Float[Tensor, "K D"], epsilon: float, num_iterations: int
) -> Int[Tensor, "B"]:
    """Returns the code that the transport plan gives most of each vector to: all codes are used about equally.

    Distances are centred and scaled to [−1, 1] first, as MiniOneRec does, so that ε has one meaning everywhere.
    """
    distances = pairwise_distances(x, codebook)
    low, high = distances.min(), distances.max()
    centred = (distances - (low + high) / 2) / ((high - low) / 2 + 1e-5)
    return sinkhorn_plan(centred, epsilon, num_iterations).argmax(dim=1)


def straight_through(z: Float[Tensor, "B D"], quantized: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Returns ``quantized``, with the gradient of ``z``: z + sg[ẑ − z] (van den Oord et al., arXiv 1711.00937)."""
    return z + (quantized - z).detach()


def rotate_to(z: Float[Tensor, "B D"], quantized: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Returns ``quantized``, with the gradient of rotating and rescaling ``z`` onto it.

    Fifty et al., arXiv 2410.06424: ẑ = λ R z with λ = ‖ẑ‖ / ‖z‖ and R = I − 2 r rᵀ + 2 q eᵀ, where e = z / ‖z‖,
    q = ẑ / ‖ẑ‖ and r = (e + q) / ‖e + q‖; λ and R count as constants. So the gradient lies to z as it lay to ẑ.
    """
    with torch.no_grad():
        length, quantized_length = z.norm(dim=1, keepdim=True), quantized.norm(dim=1, keepdim=True)
        e, q = z / length.clamp(min=_TINY), quantized / quantized_length.clamp(min=_TINY)
        r = (e + q) / (e + q).norm(dim=1, keepdim=True).clamp(min=_TINY)
        scale = quantized_length / length.clamp(min=_TINY)
    rotated = z - 2 * (z * r).sum(dim=1, keepdim=True) * r + 2 * (z * e).sum(dim=1, keepdim=True) * q
    moved = scale * rotated
    # The value is exactly ẑ also where z or e + q̂ vanish and no rotation is defined.
    return straight_through(moved, quantized)
