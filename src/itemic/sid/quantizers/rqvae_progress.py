"""How good a neural quantizer is while it learns: its error and the use of its codes on all training vectors.

Knows nothing of how it is trained.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from itemic.sid.order import num_distinct_rows
from itemic.sid.quality.use import entropy
from itemic.sid.quantizers.protocol import pieces
from itemic.sid.quantizers.row_batches import read_batch
from itemic.sid.quantizers.rqvae_network import QuantizerNetwork

__all__ = ["Progress", "measure", "warn_of_collapse"]

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
    counts = [np.bincount(column) for column in table.T]
    return Progress(
        epoch=epoch,
        mse=squared_error / x.size,
        collision_rate=1 - num_distinct_rows(table) / len(table),
        num_used=tuple(int(np.count_nonzero(level)) for level in counts),
        perplexity=tuple(math.exp(entropy(level)) for level in counts),
    )


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
