"""Whether far items have SIDs far apart; knows vectors and codes."""

import numpy as np
from jaxtyping import Float, Int

from itemic.sid.quality.prefixes import draw_pairs, shared_length
from itemic.sid.quality.vectors import pair_similarities

__all__ = ["distance_correlation"]


def distance_correlation(
    codes: Int[np.ndarray, "N L"],
    ids: Int[np.ndarray, "N L"],
    x: Float[np.ndarray, "N D"],
    num_pairs: int,
    rng: np.random.Generator,
) -> dict[str, float | None]:
    """Returns Spearman's ρ between cosine distance and SID distance, L minus the number of first codes in common.

    A rank correlation of two distances over pairs of items, not the distance correlation of Székely, Rizzo and Bakirov
    (2007), which is another statistic under that name.

    ``random_pairs``: over pairs drawn at random, as other packages do; nearly all of them differ in the first code,
    so that it is small for any good code and says little. ``stratified``: over as many pairs that share at least
    0, 1 ... L codes as there are of each other length, so that every SID distance counts. Null where either
    distance never varies.

    Args:
        codes: SIDs of the items.
        ids: ``prefix_ids`` of the codes.
        x: Vectors of the items.
        num_pairs: Pairs drawn for each length.
        rng: Of the draws.
    """
    groups = [np.zeros(len(codes), dtype=np.int64), *ids.T]
    drawn = [draw_pairs(group, num_pairs, rng) for group in groups]
    lengths = np.repeat(np.arange(len(drawn)), [len(pairs) for pairs in drawn])
    pairs = np.concatenate(drawn)
    sid_distance = codes.shape[1] - shared_length(codes, pairs)
    distance = 1 - pair_similarities(x, pairs)
    is_random = lengths == 0
    return {
        "random_pairs": _spearman(distance[is_random], sid_distance[is_random]),
        "stratified": _spearman(distance, sid_distance),
    }


def _spearman(one: Float[np.ndarray, "P"], other: Int[np.ndarray, "P"]) -> float | None:
    """Returns the correlation of the ranks, ties at their mean rank."""
    # Imported late: whoever opens a catalog comes by here, and scipy.stats takes a third of a second.
    from scipy.stats import rankdata

    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
