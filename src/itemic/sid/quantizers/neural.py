"""What neural quantizers share: the protocol on top of an encoder, codebooks and a decoder, and their file.

Knows not how the network is built or trained; a kind adds that.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from itemic.core.config import config_from_mapping
from itemic.core.device import pick_device
from itemic.core.errors import ArtifactError, CatalogError, ConfigError
from itemic.sid.quantizers.protocol import Quantizer, check_codebook_sizes, pieces
from itemic.sid.quantizers.residual import check_start, encode_residuals, squared_distances
from itemic.sid.quantizers.row_batches import read_batch
from itemic.sid.quantizers.rqvae_network import QuantizerNetwork
from itemic.sid.quantizers.rqvae_progress import Progress
from itemic.sid.quantizers.stored import read_quantizer, write_quantizer

__all__ = ["NeuralQuantizer"]


class NeuralQuantizer(ABC):
    """x̂ = decoder(Σ_l e_{c_l}), each code the nearest to what the levels before it left of encoder(x).

    Attributes:
        history: The measurements of ``fit``, that before the first step included; not kept in the file.
    """

    kind: ClassVar[str]
    config_type: ClassVar[type[Any]]

    def __init__(self, codebook_sizes: Sequence[int], config: Any = None) -> None:
        """Keeps the settings; ``fit`` makes the network.

        Args:
            codebook_sizes: Number of codes of each level, coarse first.
            config: How to learn them; the defaults where there is none.

        Raises:
            ConfigError: if there is no level, a codebook without a code, or an epsilon too many or too few.
        """
        self._sizes = check_codebook_sizes(codebook_sizes)
        self.config = config or self.config_type()
        num_epsilons = len(self.config.sinkhorn_epsilons)
        if num_epsilons not in (0, len(self._sizes)):
            raise ConfigError(
                f"sinkhorn_epsilons {self.config.sinkhorn_epsilons}: expected one for each of {len(self._sizes)} "
                f"levels, or none, found {num_epsilons}"
            )
        self._network: QuantizerNetwork | None = None
        self.history: list[Progress] = []

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        return self._sizes

    @property
    def codebooks(self) -> tuple[Float[np.ndarray, "_ d"], ...]:
        """Codebook vectors of each level, as wide as the latents, read-only; none before ``fit``."""
        if self._network is None:
            return ()
        arrays = tuple(codebook.detach().cpu().numpy() for codebook in self._network.codebooks)
        for array in arrays:
            # On a CPU they are the weights themselves.
            array.flags.writeable = False
        return arrays

    @abstractmethod
    def fit(
        self, x: Float[np.ndarray, "N D"], rng: np.random.Generator, *, start: Quantizer | None = None
    ) -> "NeuralQuantizer":
        """Returns itself, with its network learned from ``x``."""

    @abstractmethod
    def _make_network(self, width: int, generator: torch.Generator) -> QuantizerNetwork:
        """Returns the network for vectors of a width, with random weights."""

    def distances(self, x: Float[np.ndarray, "N D"], prefix: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N K"]:
        """Returns the squared distance, among latents, from what ``prefix`` leaves to each code of level l."""
        codebooks = self._fitted_codebooks()
        costs = np.empty((len(x), self._sizes[prefix.shape[1]]), dtype=np.float32)
        for rows in pieces(len(x), cells_a_row=costs.shape[1]):
            residual = self._latents(x[rows]) - _sum_of_vectors(codebooks, prefix[rows])
            costs[rows] = squared_distances(residual, codebooks[prefix.shape[1]])
        return costs

    def encode(self, x: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N L"]:
        """Returns the nearest code of each level in turn; each vector passes the encoder once."""
        codebooks = self._fitted_codebooks()
        codes = np.empty((len(x), len(self._sizes)), dtype=np.int64)
        for rows in pieces(len(x)):
            codes[rows] = encode_residuals(self._latents(x[rows]), codebooks)
        return codes

    @torch.no_grad()
    def decode(self, codes: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N D"]:
        """Returns what the decoder makes of the sum of the codes' vectors; a prefix gives its coarser vector."""
        codebooks, network = self._fitted_codebooks(), self._fitted()
        decoded = np.empty((len(codes), len(network.shift)), dtype=np.float32)
        for rows in pieces(len(codes)):
            latents = torch.from_numpy(_sum_of_vectors(codebooks, codes[rows])).to(network.device)
            decoded[rows] = network.decode(latents).cpu().numpy()
        return decoded

    def save(self, path: Path) -> None:
        """Writes the weights under their names in the network ("codebooks.0", "encoder.layers.0.weight" ...)."""
        arrays = {name: value.cpu().numpy() for name, value in self._fitted().state_dict().items()}
        write_quantizer(path, self.config, self._sizes, arrays)

    @classmethod
    def load(cls, path: Path) -> Any:
        """Returns the quantizer in ``path``, on the CPU whatever device it was trained on.

        Raises:
            ArtifactError: if the file is missing, damaged or of another kind.
        """
        stored = read_quantizer(path, cls.kind)
        quantizer = cls(stored.codebook_sizes, config_from_mapping(cls.config_type, stored.config, source=str(path)))
        try:
            network = quantizer._make_network(len(stored.arrays["shift"]), torch.Generator())
            network.load_state_dict({name: torch.from_numpy(value) for name, value in stored.arrays.items()})
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(f"{path}: damaged quantizer: {error}") from None
        quantizer._network = network
        return quantizer

    def _network_of(self, start: Quantizer, width: int) -> QuantizerNetwork:
        """Returns a copy of the network of ``start`` to go on with.

        Raises:
            CatalogError: if it is of another kind, size, width or architecture, or is not fitted.
        """
        # The codebooks' width is that of latents; the vectors' is held against the weights below.
        check_start(self, start, start.codebooks[0].shape[1] if start.codebooks else 0)
        assert isinstance(start, NeuralQuantizer)
        network = self._make_network(width, torch.Generator())
        try:
            network.load_state_dict(start._fitted().state_dict())
        except RuntimeError:
            raise CatalogError(
                f"cannot start from a quantizer whose network is not that of vectors {width} wide under this config; "
                "leave out start to learn anew"
            ) from None
        return network.to(pick_device(self.config.device))

    def _fitted(self) -> QuantizerNetwork:
        if self._network is None:
            raise CatalogError("the quantizer has no codebooks yet; call fit first")
        return self._network

    def _fitted_codebooks(self) -> tuple[np.ndarray, ...]:
        self._fitted()
        return self.codebooks

    @torch.no_grad()
    def _latents(self, x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N d"]:
        network = self._fitted()
        latents: np.ndarray = network.encode(read_batch(x, slice(None), network.device)).cpu().numpy()
        return latents


def _sum_of_vectors(codebooks: Sequence[np.ndarray], codes: Int[np.ndarray, "N l"]) -> Float[np.ndarray, "N d"]:
    total = np.zeros((len(codes), codebooks[0].shape[1]), dtype=np.float32)
    for level in range(codes.shape[1]):
        total += codebooks[level][codes[:, level]]
    return total
