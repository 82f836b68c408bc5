"""RQ-VAE: residual quantization of a learned latent, with a learned decoder. Knows nothing of collisions."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float

from itemic.core.device import pick_device
from itemic.core.errors import ConfigError
from itemic.sid.quantizers.letter_terms import CollaborativeTerm, DiversityTerm
from itemic.sid.quantizers.network_start import standardize_on, start_from_kmeans
from itemic.sid.quantizers.neural import NeuralQuantizer
from itemic.sid.quantizers.protocol import Quantizer, check_vectors
from itemic.sid.quantizers.rqvae_network import HIDDEN_GAIN, MLP, QuantizerNetwork
from itemic.sid.quantizers.rqvae_training import (
    TrainingTerm,
    VQTrainingConfig,
    train_network,
)

__all__ = ["COMPACT_HIDDEN_SIZES", "RQVAE", "RQVAEConfig"]

COMPACT_HIDDEN_SIZES = (768, 256)
"""For CPUs: a fifth of the default's cost an epoch, at a larger error after as many epochs (docs/quantizers.md)."""


@dataclass(frozen=True, kw_only=True)
class RQVAEConfig(VQTrainingConfig):
    """Settings of RQ-VAE."""

    kind: Literal["rqvae"] = "rqvae"
    """Names this quantizer in a recipe."""
    hidden_sizes: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64)
    """Widths between the vectors and the latent; the decoder mirrors them. Default: MiniOneRec.
    ``COMPACT_HIDDEN_SIZES`` cost a fifth an epoch."""
    latent_size: int = 32
    """Width of the latent and of the codebooks. Default: TIGER, MiniOneRec."""
    collaborative_weight: float = 0.0
    """LETTER's α, of the loss that draws items used alike to codes alike; needs ``collaborative`` vectors.
    LETTER: 0.02."""
    diversity_weight: float = 0.0
    """LETTER's β, of the loss that spreads the codes of a level; needs ``codebook_update: gradient``. LETTER: 1e-4."""
    diversity_clusters: int = 10
    """Clusters of a level's codes for that loss. Default: LETTER."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent_size < 1 or self.diversity_clusters < 1 or min(self.hidden_sizes, default=1) < 1:
            raise ConfigError(
                f"hidden_sizes {self.hidden_sizes}, latent_size {self.latent_size}, diversity_clusters "
                f"{self.diversity_clusters}: expected at least 1 of each"
            )
        if self.collaborative_weight < 0 or self.diversity_weight < 0:
            raise ConfigError(
                f"collaborative_weight {self.collaborative_weight}, diversity_weight {self.diversity_weight}: expected "
                "0 or more of each"
            )
        if self.diversity_weight > 0 and self.codebook_update != "gradient":
            raise ConfigError(
                f"diversity_weight {self.diversity_weight}: moving averages follow no gradient; set "
                "codebook_update: gradient"
            )


class RQVAE(NeuralQuantizer):
    """Residual quantization of an encoder's output (TIGER, arXiv 2305.05065; MiniOneRec, arXiv 2510.24431).

    Loss = mean (x − x̂)² + Σ_l ( mean ‖sg[r_l] − e_l‖² + β mean ‖r_l − sg[e_l]‖² ), means over items and dimensions.

    Deviations from MiniOneRec's code, which the settings do not undo: vectors are standardised (without that the
    small numbers of unit-length vectors leave every item on one code for hundreds of epochs) and the error counts in
    that scale; hidden weights are √2 as large, which keeps variance through ReLU; levels are summed, as in the paper,
    not averaged; and commitment losses of all levels reach the encoder, where there the straight-through estimator
    within each level lets none past the first.
    """

    kind: ClassVar[str] = "rqvae"
    config_type = RQVAEConfig

    def fit(
        self,
        x: Float[np.ndarray, "N D"],
        rng: np.random.Generator,
        *,
        start: Quantizer | None = None,
        collaborative: Float[np.ndarray, "N C"] | None = None,
    ) -> "RQVAE":
        """Returns itself, trained on ``x``, with the weights of least reconstruction error on it.

        Codebooks start from k-means on what the encoder first makes of the vectors.

        Args:
            x: What to learn from; read in pieces, a mapped file in training by blocks (``row_batches``).
            rng: Of every random choice.
            start: An RQVAE of the same architecture to go on from, at a tenth of the learning rate, so that most
                codes keep their meaning.
            collaborative: A vector of each item from a model of the log, for ``collaborative_weight``; zero where
                nothing is known of it.

        Raises:
            CatalogError: if there are fewer vectors than codes in a codebook, or ``start`` does not fit.
            ConfigError: if collaborative vectors and ``collaborative_weight`` do not come together.
            DataError: if a vector is not finite.
        """
        check_vectors(x, self._sizes)
        self._check_collaborative(len(x), collaborative)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        network = self._new_network(x, generator, rng) if start is None else self._network_of(start, x.shape[1])
        terms = self._terms(network, collaborative, generator, rng)
        rate = self.config.learning_rate * (1.0 if start is None else self.config.restart_rate)
        self.history = train_network(network, x, self.config, generator, terms=terms, learning_rate=rate)
        self._network = network.eval()
        return self

    def _check_collaborative(self, num_items: int, collaborative: np.ndarray | None) -> None:
        weight = self.config.collaborative_weight
        if weight > 0 and collaborative is None:
            raise ConfigError(
                f"collaborative_weight {weight} needs collaborative vectors: pass fit(..., collaborative=...) or set "
                "it to 0"
            )
        if weight == 0 and collaborative is not None:
            raise ConfigError("collaborative vectors are given but collaborative_weight is 0, which leaves them unused")
        if collaborative is not None and len(collaborative) != num_items:
            raise ConfigError(f"{len(collaborative)} collaborative vectors, expected one for each of {num_items} items")

    def _make_network(self, width: int, generator: torch.Generator) -> QuantizerNetwork:
        widths = (width, *self.config.hidden_sizes, self.config.latent_size)
        encoder = MLP(widths, generator, HIDDEN_GAIN)
        decoder = MLP(widths[::-1], generator, HIDDEN_GAIN)
        return QuantizerNetwork(width, encoder, decoder, self._sizes, self.config.latent_size)

    def _new_network(
        self, x: Float[np.ndarray, "N D"], generator: torch.Generator, rng: np.random.Generator
    ) -> QuantizerNetwork:
        network = self._make_network(x.shape[1], generator).to(pick_device(self.config.device))
        standardize_on(network, x)
        start_from_kmeans(network, x, rng)
        return network

    def _terms(
        self,
        network: QuantizerNetwork,
        collaborative: np.ndarray | None,
        generator: torch.Generator,
        rng: np.random.Generator,
    ) -> list[TrainingTerm]:
        config, terms = self.config, list[TrainingTerm]()
        if collaborative is not None:
            term = CollaborativeTerm(collaborative, config.latent_size, config.collaborative_weight, generator)
            terms.append(term.to(network.device))
        if config.diversity_weight > 0:
            clusters = config.diversity_clusters
            terms.append(DiversityTerm(list(network.codebooks), clusters, config.diversity_weight, rng))
        return terms
