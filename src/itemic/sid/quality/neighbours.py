"""Whether an item's nearest items share its prefix; knows vectors and codes, not how one became the other."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from itemic.sid.quality.prefixes import pair_chance
from itemic.sid.quality.vectors import unit_rows
from itemic.sid.quantizers.protocol import pieces

__all__ = ["nearest_items", "neighbourhood_recall"]

_ROWS_AT_ONCE = 4096
_QUERIES_AT_ONCE = 2048


def neighbourhood_recall(
    ids: Int[np.ndarray, "N L"], nearest: Int[np.ndarray, "Q k"], queries: Int[np.ndarray, "Q"]
) -> list[dict[str, float | None]]:
    """Returns for the prefixes of 1, 2 ... L codes how far the vectors' neighbourhoods survive in the SIDs.

    ``recall`` = share of an item's k nearest items that have its prefix, mean over items; ``chance`` = the share of
    all other items that have the prefix of a random item; ``lift`` = recall / chance (null where no two items have
    one prefix); ``ceiling`` = the recall of a code that fills each of these prefixes with nearest items alone,
    mean of min(k, n − 1) / k over the n items under the prefix. It falls with the length: unique SIDs have 0 there.

    Args:
        ids: ``prefix_ids`` of the codes.
        nearest: Rows of the nearest items of each query.
        queries: Rows of the queries.
    """
    k = nearest.shape[1]
    figures: list[dict[str, float | None]] = []
    for column in ids.T:
        recall = float((column[nearest] == column[queries][:, None]).mean())
        chance = pair_chance(column)
        company = np.bincount(column)[column[queries]] - 1
        ceiling = float(np.minimum(company, k).mean() / k)
        lift = recall / chance if chance > 0 else None
        figures.append({"recall": recall, "chance": chance, "lift": lift, "ceiling": ceiling})
    return figures


def nearest_items(
    x: Float[np.ndarray, "N D"], queries: Int[np.ndarray, "Q"], k: int, among: Bool[np.ndarray, "N"] | None = None
) -> Int[np.ndarray, "Q k"]:
    """Returns the k items of largest cosine to each query, nearest first, the query itself left out.

    Exact, by matrix products over pieces of ``x``; the memory it takes does not grow with N.

    Args:
        x: Vectors of all items.
        queries: Rows to find neighbours of.
        k: How many; fewer than there are items to look among.
        among: Items that may be found; all by default.
    """
    num_candidates = len(x) if among is None else int(among.sum())
    assert k < num_candidates, f"{k} neighbours among {num_candidates} items"
    found = np.empty((len(queries), k), dtype=np.int64)
    for part in pieces(len(queries), _QUERIES_AT_ONCE):
        found[part] = _nearest(x, queries[part], k, among)
    return found


def _nearest(
    x: Any, queries: Int[np.ndarray, "Q"], k: int, among: Bool[np.ndarray, "N"] | None
) -> Int[np.ndarray, "Q k"]:
    units = unit_rows(x[queries])
    similarity = np.full((len(queries), k), -np.inf, dtype=np.float32)
    item = np.full((len(queries), k), -1, dtype=np.int64)
    for rows in pieces(len(x), _ROWS_AT_ONCE):
        scores = units @ unit_rows(x[rows]).T
        if among is not None:
            scores[:, ~among[rows]] = -np.inf
        inside = np.flatnonzero((queries >= rows.start) & (queries < rows.stop))
        scores[inside, queries[inside] - rows.start] = -np.inf
        better = np.flatnonzero(scores.max(axis=1) > similarity.min(axis=1))
        pool = np.concatenate([similarity[better], scores[better]], axis=1)
        kept = np.argpartition(-pool, k - 1, axis=1)[:, :k]
        numbers = np.broadcast_to(np.arange(rows.start, rows.stop), (len(better), rows.stop - rows.start))
        item[better] = np.take_along_axis(np.concatenate([item[better], numbers], axis=1), kept, axis=1)
        similarity[better] = np.take_along_axis(pool, kept, axis=1)
    by_similarity = np.argsort(-similarity, axis=1, kind="stable")
    nearest: np.ndarray = np.take_along_axis(item, by_similarity, axis=1)
    return nearest
