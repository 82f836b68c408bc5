"""How alike the items under one prefix are; knows vectors and prefixes."""

import numpy as np
from jaxtyping import Float, Int

from itemic.sid.quality.prefixes import draw_pairs
from itemic.sid.quality.vectors import pair_similarities

__all__ = ["prefix_similarity"]


def prefix_similarity(
    ids: Int[np.ndarray, "N L"], x: Float[np.ndarray, "N D"], num_pairs: int, rng: np.random.Generator
) -> list[float | None]:
    """Returns the mean cosine of a random item and a random other under its prefix, for 0, 1 ... L codes.

    The first, for no codes at all, is that of any two items: what the others are to be held against. Only items
    with company count; null where none has.

    Args:
        ids: ``prefix_ids`` of the codes.
        x: Vectors of the items.
        num_pairs: Pairs drawn for each length.
        rng: Of the draws.
    """
    everything = np.zeros((len(ids), 1), dtype=np.int64)
    means: list[float | None] = []
    for column in np.concatenate([everything, ids], axis=1).T:
        pairs = draw_pairs(column, num_pairs, rng)
        means.append(float(pair_similarities(x, pairs).mean(dtype=np.float64)) if len(pairs) else None)
    return means
