"""Lists that are not all of a kind: a quota for each prefix inside the search, and a re-ranking of a finished list.

``PrefixQuota`` counts items that share the first codes of their semantic IDs, and the beam search keeps to it.
Maximal marginal relevance takes any list apart from how it was made. Knows no model and no prompt.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Recommendations
from itemic.decode.candidates import Candidates, Nodes, top_places
from itemic.decode.trie import Trie

__all__ = [
    "MarginalRelevance",
    "PrefixQuota",
    "best_within_quota",
    "close_over_quota",
    "cosine_similarity",
    "mmr_order",
    "prefix_similarity",
    "rerank_by_mmr",
    "within_quota",
]


@dataclass(frozen=True, kw_only=True)
class PrefixQuota:
    """At most so many items of a list may share the first codes of their semantic IDs."""

    max_items: int
    """Most items q of one list under one prefix."""
    num_levels: int = 1
    """Codes d of a prefix; 1, the coarsest kind there is."""

    def __post_init__(self) -> None:
        for name in ("max_items", "num_levels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class MarginalRelevance:
    """How a list is re-ranked by maximal marginal relevance."""

    trade_off: float
    """λ: 1 leaves a list as it is, 0 looks at nothing but how unlike its items are."""
    vectors: Float[np.ndarray, "N D"] | None = None
    """Vectors of all items, similar by their angle; None: similar by what semantic IDs have in common."""

    def __post_init__(self) -> None:
        _check_trade_off(self.trade_off)

    @property
    def identity(self) -> dict[str, float | str]:
        """What re-ranked lists follow from: equal for settings that re-rank alike."""
        if self.vectors is None:
            return {"trade_off": self.trade_off}
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).data).hexdigest()
        return {"trade_off": self.trade_off, "vectors": digest}


def close_over_quota(candidates: Candidates, group: Int[Tensor, "B W"], max_items: int) -> Candidates:
    """Returns leaves of which a group's best keep their items up to the quota, and the others are closed.

    Best first, a leaf keeps its items as far as its group's better leaves left room; what has none left counts as no
    leaf, with -inf and no items.

    Args:
        candidates: The deepest level's.
        group: The prefix that each node belongs to.
        max_items: The quota q.
    """
    is_open = candidates.logprob > -torch.inf
    num_items = _admit(candidates.logprob, group, torch.where(is_open, candidates.num_items, 0), max_items)
    logprob = candidates.logprob.masked_fill(num_items == 0, -torch.inf)
    return replace(candidates, logprob=logprob, num_items=num_items)


def best_within_quota(candidates: Candidates, group: Int[Tensor, "B W"], max_items: int, width: int) -> Nodes:
    """Returns the ``width`` nodes that go on above the deepest level: the best q of each group, then the best others.

    More than q nodes of a group cannot all be listed, so they only get places that no other group wants. They do get
    these: which node holds the group's best leaves is not known yet.

    Args:
        candidates: A level's.
        group: The prefix that each node belongs to.
        max_items: The quota q.
        width: Number of nodes, at most the candidates'.
    """
    is_open = candidates.logprob > -torch.inf
    is_within = _admit(candidates.logprob, group, is_open.int(), max_items) > 0
    tiers = [candidates.logprob.masked_fill(~tier, -torch.inf).flatten(1) for tier in (is_within, ~is_within)]
    places = [top_places(tier, width) for tier in tiers]
    place = torch.cat(places, dim=1)
    score = torch.cat([tier.gather(1, best) for tier, best in zip(tiers, places, strict=True)], dim=1)
    # Each tier comes best first and ends in what is not of it; all that is comes before all that is not.
    order = (score == -torch.inf).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    nodes = candidates.at(place.gather(1, order))
    return replace(nodes, logprob=score.gather(1, order))


def within_quota(
    trie: Trie, leaf: Int[Tensor, "B S"], is_item: Bool[Tensor, "B S"], quota: PrefixQuota
) -> Bool[Tensor, "B S"]:
    """Returns which items of a list, best first, stay in it: those before which the quota left room.

    Args:
        trie: The semantic IDs.
        leaf: The leaf of each item, any where there is none.
        is_item: Which columns hold an item.
        quota: Of the list.
    """
    if quota.num_levels == trie.num_levels:
        prefix = leaf
    else:
        first, _ = trie.slots(trie.num_levels, leaf)
        prefix = torch.searchsorted(trie.slot_start[quota.num_levels], first.contiguous(), right=True) - 1
    return is_item & (_count_before(prefix, is_item.int()) < quota.max_items)


def _admit(
    logprob: Float[Tensor, "B W C"], group: Int[Tensor, "B W"], count: Int[Tensor, "B W C"], quota: int
) -> Int[Tensor, "B W C"]:
    """Returns how much of each candidate's count fits into its group's quota, best first."""
    # Beyond a node's best q children the quota is used up: only those need be compared with other nodes'.
    top = logprob.topk(min(quota, logprob.shape[-1]), dim=-1)
    order = top.values.flatten(1).argsort(dim=1, descending=True, stable=True)
    wanted = count.gather(-1, top.indices).flatten(1).gather(1, order)
    kind = group[..., None].expand_as(top.indices).flatten(1).gather(1, order)
    admitted = torch.minimum(wanted, (quota - _count_before(kind, wanted)).clamp(min=0))
    admitted = torch.empty_like(admitted).scatter_(1, order, admitted).view(top.indices.shape)
    return torch.zeros_like(count).scatter_(-1, top.indices, admitted)


def _count_before(group: Int[Tensor, "B M"], count: Int[Tensor, "B M"]) -> Int[Tensor, "B M"]:
    """Returns for each column the sum of the counts of its group's earlier columns."""
    order = group.argsort(dim=1, stable=True)
    group, count = group.gather(1, order), count.gather(1, order)
    before = count.cumsum(dim=1, dtype=count.dtype) - count
    begins = torch.ones_like(group, dtype=torch.bool)
    begins[:, 1:] = group[:, 1:] != group[:, :-1]
    before = before - torch.where(begins, before, 0).cummax(dim=1).values
    return torch.empty_like(before).scatter_(1, order, before)


def rerank_by_mmr(
    lists: Recommendations,
    k: int,
    trade_off: float,
    *,
    codes: Int[np.ndarray, "N L"] | None = None,
    vectors: Float[np.ndarray, "N D"] | None = None,
) -> Recommendations:
    """Returns ``k`` items of each longer list, chosen by maximal marginal relevance (:func:`mmr_order`).

    An item's relevance is its probability over that of the list's best, exp(score - best score), which lies between
    0 and 1 as similarities do. Scores stay what they were, so they need not fall along a row any more, and ties with
    what was not listed are counted as none.

    Args:
        lists: A language model's lists: scores are log-probabilities.
        k: Items to choose, in their new order.
        trade_off: λ between 0 and 1; 1 leaves the order as it is.
        codes: Semantic IDs of all items: similar is what shares a prefix (:func:`prefix_similarity`).
        vectors: Vectors of all items: similar is what has a small angle (:func:`cosine_similarity`). Exactly one of
            the two must be given.

    Raises:
        ConfigError: if λ is out of range, or not exactly one kind of similarity is given.
        DataError: if ``k`` is less than 1.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, found {k}")
    listed = lists.item_index.clip(min=0)
    if vectors is not None and codes is None:
        similarity = cosine_similarity(vectors[listed])
    elif codes is not None and vectors is None:
        similarity = prefix_similarity(codes[listed])
    else:
        raise ConfigError("MMR needs codes or vectors to compare items by, and not both")
    is_item = lists.item_index >= 0
    best = np.where(is_item[:, :1], lists.score[:, :1], 0.0)
    order = mmr_order(np.exp(lists.score - best), similarity, is_item, k, trade_off)
    is_chosen = order >= 0
    item_index, score = (
        np.take_along_axis(each, order.clip(min=0), axis=1) for each in (lists.item_index, lists.score)
    )
    return replace(
        lists,
        item_index=np.where(is_chosen, item_index, -1),
        score=np.where(is_chosen, score, -np.inf),
        num_tied_beyond=np.zeros_like(lists.num_tied_beyond),
    )


def mmr_order(
    relevance: Float[np.ndarray, "B P"],
    similarity: Float[np.ndarray, "B P P"],
    is_item: Bool[np.ndarray, "B P"],
    k: int,
    trade_off: float,
) -> Int[np.ndarray, "B k"]:
    """Returns the columns of ``k`` items, the next one always argmax λ relevance - (1 - λ) max similarity.

    Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998): similarity is to what is chosen already. The
    first has nothing to be similar to; of equals the earlier column is chosen; -1 where a row has no item left.

    Args:
        relevance: How good each item is.
        similarity: How alike two items are.
        is_item: Which columns hold an item.
        k: Items to choose.
        trade_off: λ between 0 (only unlike what is chosen) and 1 (only relevance).

    Raises:
        ConfigError: if λ is out of range.
    """
    _check_trade_off(trade_off)
    num_rows, pool = relevance.shape
    rows = np.arange(num_rows)
    order = np.full((num_rows, k), -1, dtype=np.int64)
    is_left = is_item.copy()
    closest = np.zeros_like(similarity[:, 0])
    for rank in range(min(k, pool)):
        value = np.where(is_left, trade_off * relevance - (1 - trade_off) * closest, -np.inf)
        chosen = value.argmax(axis=1)
        order[:, rank] = np.where(is_left[rows, chosen], chosen, -1)
        is_left[rows, chosen] = False
        closest = similarity[rows, chosen] if rank == 0 else np.maximum(closest, similarity[rows, chosen])
    return order


def prefix_similarity(codes: Int[np.ndarray, "B P L"]) -> Float[np.ndarray, "B P P"]:
    """Returns the share of their first codes that two items have in common before they part: 0, 1/L, ... 1."""
    is_shared = codes[:, :, None, :] == codes[:, None, :, :]
    similarity: Float[np.ndarray, "B P P"] = np.logical_and.accumulate(is_shared, axis=-1).mean(axis=-1)
    return similarity


def cosine_similarity(vectors: Float[np.ndarray, "B P D"]) -> Float[np.ndarray, "B P P"]:
    """Returns the cosine of the angle between two items' vectors, 0 where one is zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    similarity: Float[np.ndarray, "B P P"] = unit @ unit.swapaxes(1, 2)
    return similarity


def _check_trade_off(trade_off: float) -> None:
    if not 0 <= trade_off <= 1:
        raise ConfigError(f"the MMR trade-off must lie between 0 and 1, found {trade_off}")
