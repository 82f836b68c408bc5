"""How good a set of semantic IDs is, in numbers: collisions, use of the codebooks, reconstruction error.

A collision rate alone is no figure of merit (random codes hardly collide), so it always stands beside the error.
Knows nothing of files.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from itemic.sid.order import same_row_ids
from itemic.sid.quantizers.protocol import Quantizer

__all__ = ["collisions", "level_use", "quality", "reconstruction"]


def quality(
    codes_before: Int[np.ndarray, "N L"],
    codes_after: Int[np.ndarray, "N L"],
    codebook_sizes: tuple[int, ...],
    x: Float[np.ndarray, "N D"] | None = None,
    quantizer: Quantizer | None = None,
) -> dict[str, Any]:
    """Returns the figures of a catalog's codes, ready for JSON.

    ``collisions`` and ``reconstruction`` are given ``before`` and ``after`` the collisions were resolved;
    ``share_moved`` is the share of items whose SID that changed; ``levels`` describes the codes after.

    Args:
        codes_before: As the quantizer gave them.
        codes_after: As they are in the catalog.
        codebook_sizes: Number of codes of each level.
        x: The vectors behind the codes, for the reconstruction error; that is left out (null) without them.
        quantizer: What decodes the codes; goes with ``x``.
    """
    stages = {"before": codes_before, "after": codes_after}
    errors = None
    if x is not None and quantizer is not None:
        errors = {stage: reconstruction(codes, x, quantizer) for stage, codes in stages.items()}
    return {
        "num_items": len(codes_after),
        "codebook_sizes": list(codebook_sizes),
        "collisions": {stage: collisions(codes) for stage, codes in stages.items()},
        "share_moved": float((codes_before != codes_after).any(axis=1).mean()),
        "levels": [level_use(codes_after[:, level], size) for level, size in enumerate(codebook_sizes)],
        "reconstruction": errors,
    }


def collisions(codes: Int[np.ndarray, "N L"]) -> dict[str, float | int]:
    """Returns how far the rows are from unique.

    ``rate`` = (N − distinct SIDs) / N, as MiniOneRec counts; ``share_of_items`` = items whose SID another item
    carries too, over N; ``max_items`` = items on the fullest SID.
    """
    carriers = np.bincount(same_row_ids(codes))
    return {
        "rate": 1 - len(carriers) / len(codes),
        "share_of_items": float(carriers[carriers > 1].sum() / len(codes)),
        "max_items": int(carriers.max()),
    }


def level_use(column: Int[np.ndarray, "N"], codebook_size: int) -> dict[str, Any]:
    """Returns how one level's codes are used.

    ``entropy`` = −Σ p ln p in nats over the share p of the items on each code; ``perplexity`` = exp(entropy), the
    number of codes that equal use would need; ``counts`` is the number of items on every code.
    """
    counts = np.bincount(column, minlength=codebook_size)
    shares = counts[counts > 0] / len(column)
    entropy = abs(float((shares * np.log(shares)).sum()))
    return {
        "codebook_size": codebook_size,
        "num_used": len(shares),
        "share_used": len(shares) / codebook_size,
        "entropy": entropy,
        "perplexity": float(np.exp(entropy)),
        "counts": counts.tolist(),
    }


def reconstruction(
    codes: Int[np.ndarray, "N L"], x: Float[np.ndarray, "N D"], quantizer: Quantizer
) -> dict[str, float | None]:
    """Returns the error of decoding the codes.

    ``mse`` = mean of (x − x̂)² over items and dimensions; ``relative`` = Σ‖x − x̂‖² / Σ‖x − mean‖², the share of
    the variance that the codes do not explain (null where the vectors do not vary).
    """
    squared_error = _sum_of_squares(x - quantizer.decode(codes))
    variance = _sum_of_squares(x - x.mean(axis=0, dtype=np.float64).astype(x.dtype))
    return {"mse": squared_error / x.size, "relative": squared_error / variance if variance > 0 else None}


def _sum_of_squares(x: Float[np.ndarray, "N D"]) -> float:
    """Returns Σ x², summed in float64 without a float64 copy of ``x``."""
    return float(np.einsum("nd,nd->", x, x, dtype=np.float64))
