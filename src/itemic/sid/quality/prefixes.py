"""Prefixes of SIDs as numbers, and random pairs of items under them; knows nothing of vectors or labels."""

import numpy as np
from jaxtyping import Int

from itemic.sid.order import lexicographic_order

__all__ = ["draw_pairs", "pair_chance", "prefix_ids", "shared_length"]


def prefix_ids(codes: Int[np.ndarray, "N L"]) -> Int[np.ndarray, "N L"]:
    """Returns for each item and each length l + 1 the number of its prefix, from 0 in lexicographic order.

    One sort serves all lengths.
    """
    order = lexicographic_order(codes)
    ordered = codes[order]
    differs = np.zeros(ordered.shape, dtype=bool)
    differs[1:] = np.logical_or.accumulate(ordered[1:] != ordered[:-1], axis=1)
    ids = np.empty(ordered.shape, dtype=np.int64)
    ids[order] = differs.cumsum(axis=0)
    return ids


def pair_chance(ids: Int[np.ndarray, "N"]) -> float:
    """Returns how likely two different items, drawn at random, have one id: Σ n (n − 1) / (N (N − 1))."""
    counts = np.bincount(ids).astype(np.float64)
    num_pairs = len(ids) * (len(ids) - 1)
    return float((counts * (counts - 1)).sum() / num_pairs) if num_pairs else 0.0


def draw_pairs(ids: Int[np.ndarray, "N"], num_pairs: int, rng: np.random.Generator) -> Int[np.ndarray, "P 2"]:
    """Returns pairs of different items with one id: a random item that has company, and a random one of its company.

    Args:
        ids: Group of each item.
        num_pairs: How many pairs; none come where nobody has company.
        rng: Of the draws, with replacement.
    """
    counts = np.bincount(ids)
    order = np.argsort(ids, kind="stable")
    first = np.cumsum(counts) - counts
    with_company = np.flatnonzero(counts[ids[order]] > 1)
    if len(with_company) == 0:
        return np.empty((0, 2), dtype=np.int64)
    place = rng.choice(with_company, size=num_pairs)
    group = ids[order[place]]
    step = 1 + (rng.random(num_pairs) * (counts[group] - 1)).astype(np.int64)
    other = first[group] + (place - first[group] + step) % counts[group]
    return np.stack([order[place], order[other]], axis=1)


def shared_length(codes: Int[np.ndarray, "N L"], pairs: Int[np.ndarray, "P 2"]) -> Int[np.ndarray, "P"]:
    """Returns how many first codes the two items of each pair have in common, 0 to L."""
    same = codes[pairs[:, 0]] == codes[pairs[:, 1]]
    length: np.ndarray = np.logical_and.accumulate(same, axis=1).sum(axis=1)
    return length
