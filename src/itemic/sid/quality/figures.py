"""All figures of a catalog's codes in one mapping, ready for JSON; knows nothing of files."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from itemic.core.errors import CatalogError
from itemic.sid.quality.correlation import distance_correlation
from itemic.sid.quality.error import prefix_reconstruction, reconstruction
from itemic.sid.quality.neighbours import nearest_items, neighbourhood_recall
from itemic.sid.quality.prefixes import prefix_ids
from itemic.sid.quality.purity import Labels, prefix_purity
from itemic.sid.quality.repeats import collisions
from itemic.sid.quality.similarity import prefix_similarity
from itemic.sid.quality.use import level_use, prefix_use
from itemic.sid.quantizers.protocol import Quantizer

__all__ = ["measure_quality"]

_NUM_NEIGHBOURS = 10
_LEAST_QUERIES, _MOST_QUERIES = 1000, 4096
_MAX_COMPARISONS = 500_000_000
_NUM_PAIRS = 20_000
_NUM_SHUFFLES = 3


def measure_quality(
    codes_before: Int[np.ndarray, "N M"],
    codes_after: Int[np.ndarray, "N L"],
    codebook_sizes: tuple[int, ...],
    x: Float[np.ndarray, "N D"] | None = None,
    quantizer: Quantizer | None = None,
    *,
    labels: Mapping[str, Labels] | None = None,
    active: Bool[np.ndarray, "N"] | None = None,
    log_vectors: Float[np.ndarray, "N C"] | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, Any]:
    """Returns the figures of a catalog's codes, ready for JSON.

    ``collisions`` and ``reconstruction`` are given ``before`` and ``after`` the collisions were resolved;
    ``share_moved`` is the share of items of which a code changed (a level that was added moves nobody); everything
    else describes the codes after. Each figure is explained where it is computed, all in docs/sid_quality.md.
    Neighbours are those of all items up to 4,096, of as many drawn at random in a larger catalog, and of fewer (never
    under 1,000) past 120,000 items, so that the time stays bounded; they are always looked for among all
    items that count. Similarities and distances are those of 20,000 random pairs a prefix length.

    Args:
        codes_before: As the quantizer gave them.
        codes_after: As they are in the catalog; may have a level more.
        codebook_sizes: Number of codes of each level after.
        x: The vectors behind the codes; figures of distance and error are left out (null) without them.
        quantizer: What decodes the codes; goes with ``x``.
        labels: Labels of the items by name, "brand" say.
        active: Items that count, all by default; the others are left out of every figure, queries and neighbours
            included, as if they were not there. The vectors of those that count are copied where some do not.
        log_vectors: A vector of each item from the log, zeros where it says nothing of one, for the neighbourhood in
            the log; left out (null) without them.
        rng: Of the samples; seed 0 by default.

    Raises:
        CatalogError: if there is not one codebook size for each level after.
    """
    if len(codebook_sizes) != codes_after.shape[1]:
        raise CatalogError(f"{codes_after.shape[1]} levels of codes, but codebook sizes {codebook_sizes}")
    if active is not None and not active.all():
        rows = np.flatnonzero(active)
        codes_before, codes_after, x = codes_before[rows], codes_after[rows], None if x is None else x[rows]
        labels = {name: [column[row] for row in rows.tolist()] for name, column in (labels or {}).items()}
        log_vectors = None if log_vectors is None else log_vectors[rows]
    rng = np.random.default_rng(0) if rng is None else rng
    num_common = min(codes_before.shape[1], codes_after.shape[1])
    ids = prefix_ids(codes_after)
    moved = (codes_before[:, :num_common] != codes_after[:, :num_common]).any(axis=1)
    return {
        "num_items": len(codes_after),
        "codebook_sizes": list(codebook_sizes),
        "num_levels": {"before": codes_before.shape[1], "after": codes_after.shape[1]},
        "collisions": {"before": collisions(codes_before), "after": collisions(codes_after)},
        "share_moved": float(moved.mean()),
        "levels": [level_use(codes_after[:, level], size) for level, size in enumerate(codebook_sizes)],
        "prefixes": prefix_use(ids),
        "reconstruction": _reconstruction(codes_before, codes_after[:, :num_common], x, quantizer),
        "neighbourhood": None if x is None else _neighbourhood(ids, x, rng),
        "log_neighbourhood": None if log_vectors is None else _log_neighbourhood(ids, log_vectors, rng),
        "similarity": None if x is None else prefix_similarity(ids, x, _NUM_PAIRS, rng),
        "distance_correlation": None if x is None else distance_correlation(codes_after, ids, x, _NUM_PAIRS, rng),
        "purity": {name: prefix_purity(ids, column, _NUM_SHUFFLES, rng) for name, column in (labels or {}).items()},
    }


def _reconstruction(
    before: Int[np.ndarray, "N M"],
    after: Int[np.ndarray, "N L"],
    x: Float[np.ndarray, "N D"] | None,
    quantizer: Quantizer | None,
) -> dict[str, Any] | None:
    if x is None or quantizer is None:
        return None
    by_length = prefix_reconstruction(after, x, quantizer)
    is_same = np.array_equal(before, after)
    return {
        "before": by_length[-1] if is_same else reconstruction(before, x, quantizer),
        "after": by_length[-1],
        "by_length": by_length,
    }


def _neighbourhood(
    ids: Int[np.ndarray, "N L"], x: Float[np.ndarray, "N D"], rng: np.random.Generator
) -> dict[str, Any] | None:
    """Returns the recall by length; None for a single item, which has no neighbour."""
    k = min(_NUM_NEIGHBOURS, len(x) - 1)
    if k == 0:
        return None
    num_queries = min(len(x), _MOST_QUERIES, max(_LEAST_QUERIES, _MAX_COMPARISONS // len(x)))
    queries = np.sort(rng.choice(len(x), size=num_queries, replace=False))
    nearest = nearest_items(x, queries, k)
    return {"k": k, "num_queries": len(queries), "by_length": neighbourhood_recall(ids, nearest, queries)}


def _log_neighbourhood(
    ids: Int[np.ndarray, "N L"], log_vectors: Float[np.ndarray, "N C"], rng: np.random.Generator
) -> dict[str, Any] | None:
    """Returns the same of the items that the log says something of, among themselves."""
    known = np.flatnonzero(log_vectors.any(axis=1))
    return _neighbourhood(ids[known], log_vectors[known], rng) if len(known) else None
