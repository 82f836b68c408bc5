"""The networks behind neural quantizers: an encoder, codebooks, a decoder. Knows nothing of training or of files."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itemic.sid.quantizers.vector_quantization import nearest_codes

__all__ = [
    "HIDDEN_GAIN",
    "MLP",
    "CodeChoice",
    "Quantized",
    "QuantizerNetwork",
    "ResidualMLP",
    "nearest_choice",
    "xavier_linear",
]

HIDDEN_GAIN = math.sqrt(2.0)
"""Factor on Xavier's weights that keeps the variance of activations through ReLU (He et al., arXiv 1502.01852)."""

CodeChoice = Callable[[int, Tensor, Tensor], Tensor]
"""Gives the codes (B,) of a level from its number, the residuals (B, d) and the codebook (K, d)."""


class Quantized(NamedTuple):
    """What the levels make of a batch of latents."""

    codes: Tensor
    """(B, L)."""
    residuals: list[Tensor]
    """What each level was to quantize, (B, d) each; carries the encoder's gradient."""
    chosen: list[Tensor]
    """The codebook vectors it chose, (B, d) each; carry the codebooks' gradient."""
    total: Tensor
    """Their sum ẑ (B, d)."""


class MLP(nn.Module):
    """Linear layers with ReLU between them, none after the last."""

    def __init__(self, widths: Sequence[int], generator: torch.Generator, gain: float = 1.0) -> None:
        """Draws Xavier-normal weights; biases start at zero.

        Args:
            widths: Input, hidden and output widths.
            generator: Of the weights.
            gain: Factor on the weights of all layers that a ReLU follows.
        """
        super().__init__()
        gains = [gain] * (len(widths) - 2) + [1.0]
        self.layers = nn.ModuleList(
            xavier_linear(*pair, generator, gain) for pair, gain in zip(itertools.pairwise(widths), gains, strict=True)
        )

    def forward(self, x: Float[Tensor, "B I"]) -> Float[Tensor, "B O"]:
        """Returns the last layer's output."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        output: Tensor = self.layers[-1](x)
        return output


class ResidualMLP(MLP):
    """x + MLP(x), the MLP's last layer starting at zero: at first it is the identity."""

    def __init__(self, widths: Sequence[int], generator: torch.Generator, gain: float = 1.0) -> None:
        """Draws all weights but the last layer's; input and output must be equally wide."""
        super().__init__(widths, generator, gain)
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Returns the input plus what the network has learned to add."""
        return x + super().forward(x)


def xavier_linear(num_inputs: int, num_outputs: int, generator: torch.Generator, gain: float = 1.0) -> nn.Linear:
    """Returns a layer with Xavier-normal weights and zero biases; torch's global random state is left alone."""
    layer = nn.Linear(num_inputs, num_outputs, device="meta").to_empty(device="cpu")
    nn.init.xavier_normal_(layer.weight, gain=gain, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def nearest_choice(level: int, residual: Tensor, codebook: Tensor) -> Tensor:
    """Returns the nearest code of each residual: the choice outside training."""
    return nearest_codes(residual, codebook)


class QuantizerNetwork(nn.Module):
    """Standardise, encode, quantize by residuals, decode.

    Vectors are shifted by the mean item and divided by one number, the items' root mean squared deviation, so that
    the network sees unit variance whatever the encoder of the texts; ``decode`` undoes it.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, width: int, encoder: nn.Module, decoder: nn.Module, sizes: Sequence[int], latent: int) -> None:
        """Makes zero codebooks and a standardisation that does nothing.

        Args:
            width: Of the item vectors.
            encoder: From (B, width) to (B, latent).
            decoder: From (B, latent) to (B, width).
            sizes: Number of codes of each level.
            latent: Width of the codebook vectors.
        """
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.codebooks = nn.ParameterList(torch.zeros(size, latent) for size in sizes)
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.shift.device

    def standardize(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Returns (x − mean) / scale."""
        return (x - self.shift) / self.scale

    def encode(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B d"]:
        """Returns latents of item vectors."""
        latents: Tensor = self.encoder(self.standardize(x))
        return latents

    def decode(self, z: Float[Tensor, "B d"]) -> Float[Tensor, "B D"]:
        """Returns item vectors of latents."""
        decoded: Tensor = self.decoder(z)
        return decoded * self.scale + self.shift

    def quantize(self, z: Float[Tensor, "B d"], choose: CodeChoice = nearest_choice) -> Quantized:
        """Returns codes, residuals and vectors: r_0 = z, c_l = choose(r_l), r_{l+1} = r_l − sg[e_{c_l}]."""
        residual, total = z, torch.zeros_like(z)
        codes, residuals, chosen = [], [], []
        for level, codebook in enumerate(self.codebooks):
            with torch.no_grad():
                code = choose(level, residual, codebook)
            vectors = nn.functional.embedding(code, codebook)
            codes.append(code)
            residuals.append(residual)
            chosen.append(vectors)
            total = total + vectors
            residual = residual - vectors.detach()
        return Quantized(torch.stack(codes, dim=1), residuals, chosen, total)
