"""LETTER's two terms (arXiv 2405.07314) as parts of a training: collaborative alignment and codebook diversity.

Knows nothing of where collaborative vectors come from.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from itemic.core.errors import DataError
from itemic.sid.quantizers.kmeans import kmeans
from itemic.sid.quantizers.rqvae_losses import collaborative_loss, diversity_loss
from itemic.sid.quantizers.rqvae_network import Quantized, xavier_linear
from itemic.sid.quantizers.vector_quantization import nearest_codes, straight_through

__all__ = ["CollaborativeTerm", "DiversityTerm", "draw_partners"]

_KMEANS_ITERATIONS = 10


class CollaborativeTerm(nn.Module):
    """α times the contrastive loss between projected quantized latents and collaborative vectors.

    Deviations from LETTER: a learned linear projection, as the two widths may differ, and collaborative vectors of
    length 1, so that the loss does not depend on the scale of the model they come from.
    """

    vectors: Tensor

    def __init__(
        self, collaborative: Float[np.ndarray, "N C"], latent_size: int, weight: float, generator: torch.Generator
    ) -> None:
        """Draws the projection.

        Args:
            collaborative: A vector of each item; zero where nothing is known of it.
            latent_size: Width of the latents.
            weight: α.
            generator: Of the projection's weights.

        Raises:
            DataError: if a vector is not finite.
        """
        super().__init__()
        if not np.isfinite(collaborative).all():
            row = int(np.isfinite(collaborative).all(axis=1).argmin())
            raise DataError(f"collaborative vector of item row {row} holds NaN or infinity")
        vectors = torch.from_numpy(np.array(collaborative, dtype=np.float32))
        self.register_buffer("vectors", nn.functional.normalize(vectors, dim=1))
        self.projection = xavier_linear(latent_size, vectors.shape[1], generator)
        self.weight = weight

    def begin_epoch(self) -> None:
        """Does nothing."""

    def loss(self, rows: Int[np.ndarray, "B"], quantized: Quantized) -> Float[Tensor, ""]:
        """Returns the weighted term for a batch."""
        # The first residual is the latent itself.
        through = straight_through(quantized.residuals[0], quantized.total)
        wanted = self.vectors[torch.from_numpy(rows).to(self.vectors.device)]
        return self.weight * collaborative_loss(self.projection(through), wanted)


class DiversityTerm(nn.Module):
    """β times the mean diversity loss of the levels; clusters of the codes are found anew every epoch.

    Deviation from LETTER: plain k-means instead of one with equal clusters.
    """

    def __init__(self, codebooks: Sequence[Tensor], num_clusters: int, weight: float, rng: np.random.Generator) -> None:
        """Keeps the codebooks.

        Args:
            codebooks: (K, d) of each level, as trained.
            num_clusters: Clusters of the codes of a level, at most half as many as codes.
            weight: β.
            rng: Of the clusters and of the partners.
        """
        super().__init__()
        self._codebooks, self._num_clusters, self._weight, self._rng = codebooks, num_clusters, weight, rng
        self._clusters: list[np.ndarray] = []

    def begin_epoch(self) -> None:
        """Clusters the codes of every level."""
        self._clusters = [self._cluster(codebook.detach()) for codebook in self._codebooks]

    def loss(self, rows: Int[np.ndarray, "B"], quantized: Quantized) -> Float[Tensor, ""]:
        """Returns the weighted term for a batch."""
        losses = []
        for codebook, clusters, codes in zip(
            self._codebooks, self._clusters, quantized.codes.unbind(dim=1), strict=True
        ):
            partners = draw_partners(clusters, codes.cpu().numpy(), self._rng)
            has_partner = torch.from_numpy(partners >= 0).to(codes.device)
            if has_partner.any():
                chosen = torch.from_numpy(partners).to(codes.device)[has_partner]
                losses.append(diversity_loss(codebook, codes[has_partner], chosen))
        return self._weight * torch.stack(losses).mean() if losses else quantized.total.new_zeros(())

    def _cluster(self, codebook: Float[Tensor, "K d"]) -> Int[np.ndarray, "K"]:
        vectors = codebook.cpu().numpy()
        num_clusters = max(1, min(self._num_clusters, len(vectors) // 2))
        centres = kmeans(vectors, num_clusters, _KMEANS_ITERATIONS, self._rng)
        clusters: np.ndarray = nearest_codes(codebook.cpu(), torch.from_numpy(centres)).numpy()
        return clusters


def draw_partners(
    clusters: Int[np.ndarray, "K"], codes: Int[np.ndarray, "B"], rng: np.random.Generator
) -> Int[np.ndarray, "B"]:
    """Returns for each code another one of its cluster, drawn evenly; −1 where it is alone.

    Args:
        clusters: Cluster of every code.
        codes: Whose partners are wanted.
        rng: Of the draw.
    """
    order = np.argsort(clusters, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    sizes = np.bincount(clusters)
    first = np.cumsum(sizes) - sizes
    size, begin = sizes[clusters[codes]], first[clusters[codes]]
    # A step of 1 to size − 1 around the cluster never comes back to the code itself.
    step = 1 + (rng.random(len(codes)) * (size - 1)).astype(np.int64)
    partner = order[begin + (place[codes] - begin + step) % size]
    return np.where(size > 1, partner, -1)
