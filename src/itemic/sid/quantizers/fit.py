"""Fits a quantizer of any kind with what that kind learns from; knows nothing of files or of the log."""

import numpy as np
from jaxtyping import Float

from itemic.sid.quantizers.protocol import Quantizer
from itemic.sid.quantizers.registry import QuantizerConfig
from itemic.sid.quantizers.rqvae import RQVAE, RQVAEConfig

__all__ = ["fit_quantizer", "uses_collaborative"]


def uses_collaborative(config: QuantizerConfig) -> bool:
    """Returns whether the quantizer learns from collaborative vectors beside those that it codes (LETTER's term)."""
    return isinstance(config, RQVAEConfig) and config.collaborative_weight > 0


def fit_quantizer(
    quantizer: Quantizer,
    x: Float[np.ndarray, "N D"],
    rng: np.random.Generator,
    *,
    start: Quantizer | None = None,
    collaborative: Float[np.ndarray, "N C"] | None = None,
) -> Quantizer:
    """Returns the quantizer, fitted; collaborative vectors go to a kind that uses them and are left out otherwise.

    Args:
        quantizer: Not fitted yet.
        x: What to learn from.
        rng: Of every random choice.
        start: Fitted quantizer to begin from.
        collaborative: A vector of each item from the log, zero where it is not known; None where there are none.

    Raises:
        CatalogError: if the codebooks are too large for the vectors, or ``start`` does not fit.
        ConfigError: if the quantizer uses collaborative vectors and there are none.
    """
    if isinstance(quantizer, RQVAE) and uses_collaborative(quantizer.config):
        return quantizer.fit(x, rng, start=start, collaborative=collaborative)
    return quantizer.fit(x, rng, start=start)
