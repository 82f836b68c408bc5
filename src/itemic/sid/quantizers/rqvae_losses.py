"""The terms of RQ-VAE's loss as pure functions of tensors; knows nothing of networks or of how codes are chosen."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, one_hot

__all__ = ["codebook_loss", "collaborative_loss", "commitment_loss", "diversity_loss"]


def codebook_loss(residuals: Sequence[Tensor], chosen: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Returns Σ_l mean ‖sg[r_l] − e_l‖² / d: draws each codebook vector to the residuals that chose it.

    Args:
        residuals: r_l (B, d) of each level.
        chosen: Codebook vectors e_l (B, d) that they chose.
    """
    return torch.stack([mse_loss(e, r.detach()) for r, e in zip(residuals, chosen, strict=True)]).sum()


def commitment_loss(residuals: Sequence[Tensor], chosen: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Returns Σ_l mean ‖r_l − sg[e_l]‖² / d: draws the encoder's output to the codes it chose.

    Args:
        residuals: r_l (B, d) of each level.
        chosen: Codebook vectors e_l (B, d) that they chose.
    """
    return torch.stack([mse_loss(r, e.detach()) for r, e in zip(residuals, chosen, strict=True)]).sum()


def collaborative_loss(quantized: Float[Tensor, "B D"], collaborative: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Returns −mean_i log( exp⟨ẑ_i, h_i⟩ / Σ_j exp⟨ẑ_i, h_j⟩ ): items used alike get codes alike.

    LETTER (arXiv 2405.07314), equation 3; the other items of the batch are the negatives. Items whose collaborative
    vector is zero (no interactions) are left out.

    Args:
        quantized: Quantized latent of each item, as wide as the collaborative vectors.
        collaborative: Vectors from a model of the log.
    """
    known = collaborative.abs().sum(dim=1) > 0
    if not known.any():
        return quantized.sum() * 0
    logits = quantized[known] @ collaborative[known].T
    return cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def diversity_loss(
    codebook: Float[Tensor, "K D"], codes: Int[Tensor, "B"], partners: Int[Tensor, "B"]
) -> Float[Tensor, ""]:
    """Returns −mean_i log( exp⟨e_{c_i}, e_{p_i}⟩ / Σ_{j≠c_i} exp⟨e_{c_i}, e_j⟩ ): codes stay spread over clusters.

    LETTER (arXiv 2405.07314), equation 4: the partner p_i is another code of the cluster of c_i.

    Args:
        codebook: Vectors of a level's codes.
        codes: Codes the items chose.
        partners: A code of the same cluster for each of them.
    """
    logits = codebook[codes] @ codebook.T
    own: Bool[Tensor, "B K"] = one_hot(codes, len(codebook)).bool()
    return cross_entropy(logits.masked_fill(own, -torch.inf), partners)
