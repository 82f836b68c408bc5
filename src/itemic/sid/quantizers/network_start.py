"""How a neural quantizer begins: its scale, and codebooks from k-means. Knows nothing of training."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from itemic.sid.quantizers.kmeans import kmeans
from itemic.sid.quantizers.protocol import pieces
from itemic.sid.quantizers.residual import encode_residuals
from itemic.sid.quantizers.row_batches import read_batch
from itemic.sid.quantizers.rqvae_network import QuantizerNetwork

__all__ = ["standardize_on", "start_from_codebooks", "start_from_kmeans"]

_KMEANS_ITERATIONS = 10
_POINTS_PER_CODE = 256


@torch.no_grad()
def standardize_on(network: QuantizerNetwork, x: Float[np.ndarray, "N D"]) -> None:
    """Sets the network's shift to the mean of ``x`` and its scale to the root mean squared deviation from it."""
    mean = x.mean(axis=0, dtype=np.float64)
    squares = sum(float(np.square(x[rows] - mean).sum()) for rows in pieces(len(x)))
    network.shift.copy_(torch.from_numpy(mean))
    network.scale.fill_((squares / x.size) ** 0.5 or 1.0)


@torch.no_grad()
def start_from_kmeans(network: QuantizerNetwork, x: Float[np.ndarray, "N D"], rng: np.random.Generator) -> None:
    """Sets the codebooks, level by level, to k-means on what the encoder makes of ``x`` and the levels before leave.

    On 256 vectors a code of the largest codebook, drawn at random where there are more. Only their latents are kept.
    """
    num_points = _POINTS_PER_CODE * max(len(codebook) for codebook in network.codebooks)
    chosen = np.arange(len(x))
    if num_points < len(x):
        chosen = np.sort(rng.choice(len(x), size=num_points, replace=False))
    latents = [network.encode(read_batch(x, chosen[rows], network.device)).cpu() for rows in pieces(len(chosen))]
    residual = torch.cat(latents).numpy()
    for codebook in network.codebooks:
        centroids = kmeans(residual, len(codebook), _KMEANS_ITERATIONS, rng)
        codebook.copy_(torch.from_numpy(centroids))
        residual -= centroids[encode_residuals(residual, [centroids])[:, 0]]


@torch.no_grad()
def start_from_codebooks(network: QuantizerNetwork, codebooks: Sequence[np.ndarray]) -> None:
    """Sets the codebooks to (K, D) ones learned on vectors as they are, moved into the network's scale.

    The shift goes to the first level alone, for the others hold differences of vectors.
    """
    for level, (codebook, vectors) in enumerate(zip(network.codebooks, codebooks, strict=True)):
        shift = network.shift if level == 0 else torch.zeros_like(network.shift)
        codebook.copy_((torch.from_numpy(np.asarray(vectors)).to(network.device) - shift) / network.scale)
