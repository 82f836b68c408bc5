"""How codebooks learn: by the loss's gradient or as moving averages; and how unused codes are given a new start.

Knows nothing of encoders or of how codes are chosen.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.sid.quantizers.rqvae_losses import codebook_loss
from itemic.sid.quantizers.rqvae_network import Quantized

__all__ = ["AveragedCodebooks", "CodebookUpdate", "DeadCodes", "GradientCodebooks", "moving_averages"]

_LEAST_COUNT = 1e-3
"""Items under which an average no longer counts as one: the code then stays where it is."""


@runtime_checkable
class CodebookUpdate(Protocol):
    """One way for codebooks to learn."""

    def loss(self, quantized: Quantized) -> Float[Tensor, ""]:
        """Returns what the codebooks add to the loss."""
        ...

    def step(self, quantized: Quantized) -> None:
        """Moves the codebooks after a batch, where the optimizer does not."""
        ...

    def place(self, level: int, codes: Int[Tensor, "n"], vectors: Float[Tensor, "n d"]) -> None:
        """Puts codes of a level at new places."""
        ...


class GradientCodebooks:
    """The paper's: the optimizer moves the codebooks along the gradient of the codebook loss."""

    def __init__(self, codebooks: Sequence[Tensor]) -> None:
        """Keeps the codebooks, (K, d) each."""
        self._codebooks = codebooks

    def loss(self, quantized: Quantized) -> Float[Tensor, ""]:
        """Returns the codebook loss."""
        return codebook_loss(quantized.residuals, quantized.chosen)

    def step(self, quantized: Quantized) -> None:
        """Does nothing: the optimizer has moved the codebooks."""

    @torch.no_grad()
    def place(self, level: int, codes: Int[Tensor, "n"], vectors: Float[Tensor, "n d"]) -> None:
        """Puts codes of a level at new places."""
        self._codebooks[level][codes] = vectors


class AveragedCodebooks:
    """Every code is the moving average of the residuals that chose it (van den Oord et al., 1711.00937, appendix A.1).

    Deviation: no Laplace smoothing of the counts, which draws rare codes to zero; a code whose count has all but
    vanished stays where it is.
    """

    def __init__(self, codebooks: Sequence[Tensor], decay: float) -> None:
        """Begins at the codebooks as they are, each code counting as one item.

        Args:
            codebooks: (K, d) each; written to after every batch, and taken out of the gradient.
            decay: Share of the average that is kept at each batch.
        """
        self._codebooks, self._decay = codebooks, decay
        for codebook in codebooks:
            codebook.requires_grad_(False)
        self._counts = [torch.ones(len(codebook), device=codebook.device) for codebook in codebooks]
        self._sums = [codebook.detach().clone() for codebook in codebooks]

    def loss(self, quantized: Quantized) -> Float[Tensor, ""]:
        """Returns 0: the averages minimise the codebook loss by themselves."""
        return quantized.total.new_zeros(())

    @torch.no_grad()
    def step(self, quantized: Quantized) -> None:
        """Moves every code to its new average."""
        for level, codebook in enumerate(self._codebooks):
            self._counts[level], self._sums[level] = moving_averages(
                self._counts[level],
                self._sums[level],
                quantized.residuals[level].detach(),
                quantized.codes[:, level],
                self._decay,
            )
            counts = self._counts[level][:, None]
            codebook.copy_(torch.where(counts > _LEAST_COUNT, self._sums[level] / counts, codebook))

    @torch.no_grad()
    def place(self, level: int, codes: Int[Tensor, "n"], vectors: Float[Tensor, "n d"]) -> None:
        """Puts codes of a level at new places; each counts as one item there."""
        self._codebooks[level][codes] = vectors
        self._counts[level][codes] = 1
        self._sums[level][codes] = vectors


def moving_averages(
    counts: Float[Tensor, "K"],
    sums: Float[Tensor, "K d"],
    residuals: Float[Tensor, "B d"],
    codes: Int[Tensor, "B"],
    decay: float,
) -> tuple[Float[Tensor, "K"], Float[Tensor, "K d"]]:
    """Returns N ← γN + (1 − γ) n and m ← γm + (1 − γ) Σ r, whose quotient m / N is the codebook.

    n and Σ r are the number and the sum of this batch's residuals on each code.
    """
    num = torch.bincount(codes, minlength=len(counts)).to(counts.dtype)
    total = torch.zeros_like(sums).index_add_(0, codes, residuals)
    return decay * counts + (1 - decay) * num, decay * sums + (1 - decay) * total


class DeadCodes:
    """Gives codes that no item has chosen for some epochs a new start at residuals that are coded badly.

    The residuals are those of one batch, the last full one of the epoch, drawn with a probability proportional to
    their squared error (as k-means++ draws its centres), without replacement.
    """

    def __init__(self, sizes: Sequence[int], patience: int, generator: torch.Generator) -> None:
        """Begins with every code as just used.

        Args:
            sizes: Number of codes of each level.
            patience: Epochs without any item after which a code is dead; 0 lets the dead rest.
            generator: Of the draws, on the CPU.
        """
        self._patience, self._generator = patience, generator
        self._used = [torch.zeros(size, dtype=torch.bool) for size in sizes]
        self._idle = [torch.zeros(size, dtype=torch.int64) for size in sizes]

    def observe(self, codes: Int[Tensor, "B L"]) -> None:
        """Marks the codes of a batch as used."""
        if not self._patience:
            return
        for level, column in enumerate(codes.cpu().unbind(dim=1)):
            self._used[level][column] = True

    def end_epoch(self, batch: Quantized, update: CodebookUpdate) -> int:
        """Returns how many codes were given a new start, after placing them."""
        if not self._patience:
            return 0
        return sum(self._revive(level, batch, update) for level in range(len(self._used)))

    def _revive(self, level: int, batch: Quantized, update: CodebookUpdate) -> int:
        idle = self._idle[level]
        idle.add_(1)[self._used[level]] = 0
        self._used[level].zero_()
        residuals = batch.residuals[level].detach()
        # In double, a residual too long for float32 to square still has a finite error.
        errors = (residuals - batch.chosen[level].detach()).cpu().double().square().sum(dim=1)
        dead = torch.nonzero(idle >= self._patience)[:, 0]
        num = min(len(dead), int((errors > 0).sum()))
        if num == 0:
            return 0
        picked = torch.multinomial(errors, num, generator=self._generator)
        revived = dead[:num]
        update.place(level, revived.to(residuals.device), residuals[picked.to(residuals.device)])
        idle[revived] = 0
        return num
