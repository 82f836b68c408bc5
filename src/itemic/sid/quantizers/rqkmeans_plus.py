"""RQ-KMeans+: residual k-means whose vectors, codebooks and decoder are then fine-tuned with RQ-VAE's loss.

Knows nothing of collisions.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
import torch
from jaxtyping import Float

from itemic.core.device import pick_device
from itemic.core.errors import ConfigError
from itemic.sid.quantizers.balanced import BalancedRQKMeans, BalancedRQKMeansConfig
from itemic.sid.quantizers.network_start import standardize_on, start_from_codebooks
from itemic.sid.quantizers.neural import NeuralQuantizer
from itemic.sid.quantizers.protocol import Quantizer, check_vectors
from itemic.sid.quantizers.rqkmeans import RQKMeans, RQKMeansConfig
from itemic.sid.quantizers.rqvae_network import HIDDEN_GAIN, QuantizerNetwork, ResidualMLP
from itemic.sid.quantizers.rqvae_training import VQTrainingConfig, train_network

__all__ = ["RQKMeansPlus", "RQKMeansPlusConfig"]

BaseConfig = Annotated[RQKMeansConfig | BalancedRQKMeansConfig, pydantic.Field(discriminator="kind")]
"""What RQ-KMeans+ can start from."""


@dataclass(frozen=True, kw_only=True)
class RQKMeansPlusConfig(VQTrainingConfig):
    """Settings of RQ-KMeans+."""

    kind: Literal["rqkmeans-plus"] = "rqkmeans-plus"
    """Names this quantizer in a recipe."""
    base: BaseConfig = field(default_factory=RQKMeansConfig)
    """The residual k-means that it starts from; its key ``kind`` says which. MiniOneRec starts from balanced codes.
    Only the codebooks are taken over: the prices of balanced codes are not, since the nearest code is trained."""
    hidden_sizes: tuple[int, ...] = (768, 256)
    """Widths of the residual branches of encoder and decoder. Default: as RQ-VAE here."""
    epochs: int = 20
    """Most passes over the vectors. Default: by measurement, twice as many code new items worse; MiniOneRec 10,000."""
    learning_rate: float = 1e-3
    """Peak rate of AdamW. Default: by measurement, ten times MiniOneRec's, which has as many more epochs to use it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.hidden_sizes, default=1) < 1:
            raise ConfigError(f"hidden_sizes {self.hidden_sizes}: expected at least 1 of each")


class RQKMeansPlus(NeuralQuantizer):
    """z = x + MLP(x), x̂ = ẑ + MLP'(ẑ), codebooks from residual k-means (GPR's tokenizer, as in MiniOneRec).

    Both MLPs end in a layer of zeros, so before the first step this is residual k-means, and since the weights of
    least reconstruction error are kept, training never decodes worse on the items it learned from.

    Deviation from MiniOneRec's code: the decoder too is such a residual; there it starts at random.
    """

    kind: ClassVar[str] = "rqkmeans-plus"
    config_type = RQKMeansPlusConfig

    def fit(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, *, start: Quantizer | None = None
    ) -> "RQKMeansPlus":
        """Returns itself, after residual k-means and fine-tuning.

        Args:
            x: What to learn from; read in pieces, a mapped file in training by blocks (``row_batches``).
            rng: Of every random choice.
            start: An RQKMeansPlus of the same architecture to go on from in place of residual k-means, at a tenth of
                the learning rate.

        Raises:
            CatalogError: if there are fewer vectors than codes in a codebook, or ``start`` does not fit.
            DataError: if a vector is not finite.
        """
        check_vectors(x, self._sizes)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        if start is None:
            self.warm_start(x, rng, generator)
        else:
            self._network = self._network_of(start, x.shape[1])
        rate = self.config.learning_rate * (1.0 if start is None else self.config.restart_rate)
        self.history = train_network(self._fitted(), x, self.config, generator, learning_rate=rate)
        return self

    def warm_start(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, generator: torch.Generator
    ) -> Quantizer:
        """Returns the fitted residual k-means, having become it: same codes, same decoded vectors."""
        base = _make_base(self.config.base, self._sizes).fit(x, rng)
        network = self._make_network(x.shape[1], generator).to(pick_device(self.config.device))
        standardize_on(network, x)
        start_from_codebooks(network, base.codebooks)
        self._network = network
        return base

    def _make_network(self, width: int, generator: torch.Generator) -> QuantizerNetwork:
        widths = (width, *self.config.hidden_sizes, width)
        encoder = ResidualMLP(widths, generator, HIDDEN_GAIN)
        decoder = ResidualMLP(widths, generator, HIDDEN_GAIN)
        return QuantizerNetwork(width, encoder, decoder, self._sizes, width)


def _make_base(config: BaseConfig, codebook_sizes: tuple[int, ...]) -> Quantizer:
    match config:
        case RQKMeansConfig():
            return RQKMeans(codebook_sizes, config)
        case BalancedRQKMeansConfig():
            return BalancedRQKMeans(codebook_sizes, config)
