"""How good a neural quantizer is while it learns: its error and the use of its codes on all training vectors.

Knows nothing of how it is trained.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from itemic.sid.order import same_row_ids
from itemic.sid.quantizers.protocol import pieces
from itemic.sid.quantizers.row_batches import read_batch
from itemic.sid.quantizers.rqvae_network import QuantizerNetwork

__all__ = ["Progress", "measure", "perplexity", "warn_of_collapse"]

log = logging.getLogger("itemic")

_ROWS_TO_MEASURE = 4096


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How good a network is on all training vectors, with nearest codes."""

    epoch: int
    """Epochs done."""
    mse: float
    """Mean squared error per dimension of the decoded vectors."""
    collision_rate: float
    """(N − distinct SIDs) / N."""
    num_used: tuple[int, ...]
    """Codes of each level that some item has."""
    perplexity: tuple[float, ...]
    """exp(entropy) of the codes of each level."""

    def __str__(self) -> str:
        codes = ", ".join(f"{value:.0f}" for value in self.perplexity)
        return f"error {self.mse:.3g}, collisions {self.collision_rate:.1%}, perplexity {codes}"


@torch.no_grad()
def measure(network: QuantizerNetwork, x: Float[np.ndarray, "N D"], epoch: int) -> Progress:
    """Returns how good the network is on ``x``, read in pieces."""
    squared_error, codes = 0.0, []
    for rows in pieces(len(x), _ROWS_TO_MEASURE):
        batch = read_batch(x, rows, network.device)
        quantized = network.quantize(network.encode(batch))
        squared_error += float((network.decode(quantized.total) - batch).square().sum())
        codes.append(quantized.codes.cpu().numpy())
    table = np.concatenate(codes)
    return Progress(
        epoch=epoch,
        mse=squared_error / x.size,
        collision_rate=1 - len(np.unique(same_row_ids(table))) / len(table),
        num_used=tuple(len(np.unique(column)) for column in table.T),
        perplexity=tuple(perplexity(column) for column in table.T),
    )


def perplexity(column: Int[np.ndarray, "N"]) -> float:
    """Returns exp(−Σ p ln p) over the share p of the items on each code."""
    shares = np.bincount(column) / len(column)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def warn_of_collapse(progress: Progress, sizes: Sequence[int]) -> None:
    """Warns, with the remedy, of every level on which all items have the same code."""
    for level, (used, size) in enumerate(zip(progress.num_used, sizes, strict=True)):
        if used == 1 < size:
            log.warning(
                "level %d collapsed: all items have the same one of its %d codes. Set revive_after: 1 and "
                "codebook_update: average, raise sinkhorn_epsilons of that level or lower learning_rate",
                level,
                size,
            )
