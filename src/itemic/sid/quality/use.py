"""How evenly codes and prefixes are used: counts, entropy, perplexity, Gini; knows nothing of vectors."""

from typing import Any

import numpy as np
from jaxtyping import Int

__all__ = ["entropy", "gini", "level_use", "prefix_use"]


def level_use(column: Int[np.ndarray, "N"], codebook_size: int) -> dict[str, Any]:
    """Returns how one level's codes are used, whatever stands before them.

    ``entropy`` in nats over the share of the items on each code; ``perplexity`` = exp(entropy), the number of codes
    that equal use would need; ``gini`` of the counts, unused codes included; ``counts`` is the number of items on
    every code.
    """
    counts = np.bincount(column, minlength=codebook_size)
    num_used = int((counts > 0).sum())
    return {
        "codebook_size": codebook_size,
        "num_used": num_used,
        "share_used": num_used / codebook_size,
        "entropy": entropy(counts),
        "perplexity": float(np.exp(entropy(counts))),
        "gini": gini(counts),
        "counts": counts.tolist(),
    }


def prefix_use(ids: Int[np.ndarray, "N L"]) -> list[dict[str, float | int]]:
    """Returns how the prefixes of 1, 2 ... L codes are used.

    ``entropy`` in nats of the prefix of that length; ``perplexity`` = exp(entropy); ``entropy_of_last`` = what the
    last of its codes adds, H(c_l | c_1 ... c_{l−1}): no model that ignores the user can predict that code with a
    smaller loss, were every item as frequent; ``max_items`` on the fullest prefix.

    Args:
        ids: ``prefix_ids`` of the codes.
    """
    figures: list[dict[str, float | int]] = []
    before = 0.0
    for column in ids.T:
        counts = np.bincount(column)
        now = entropy(counts)
        figures.append(
            {
                "num": len(counts),
                "entropy": now,
                "perplexity": float(np.exp(now)),
                "entropy_of_last": max(0.0, now - before),
                "max_items": int(counts.max()),
            }
        )
        before = now
    return figures


def entropy(counts: Int[np.ndarray, "K"]) -> float:
    """Returns −Σ p ln p in nats over the shares p = counts / Σ counts."""
    shares = counts[counts > 0] / counts.sum()
    return abs(float((shares * np.log(shares)).sum()))


def gini(counts: Int[np.ndarray, "K"]) -> float:
    """Returns the Gini coefficient Σ_i (2i − K − 1) n_i / (K Σ n), with the counts n rising along i = 1 ... K.

    0 for equal counts, (K − 1) / K where one code has all items.
    """
    ranks = np.arange(1, len(counts) + 1)
    weighted = float(((2 * ranks - len(counts) - 1) * np.sort(counts)).sum())
    return weighted / (len(counts) * float(counts.sum()))
