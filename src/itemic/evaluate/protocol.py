"""The evaluation protocol: which examples, which candidates, and each recommender's lists for them.

Every item of the catalogue is a candidate (no sampled negatives) but those the user has seen, where these are
excluded. Knows nothing of metrics or files.
"""

import hashlib
import logging
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from itemic.core.dataset import Dataset, cold_mask
from itemic.core.errors import ConfigError, DataError
from itemic.core.progress import progress_bar
from itemic.core.ranking import Recommendations, Recommender
from itemic.core.seeds import derive_rng
from itemic.evaluate.metrics.invalid import valid_slots
from itemic.evaluate.ranks import (
    TargetRanks,
    check_recommendations,
    is_cut_by_tie,
    ranks_at,
    target_ranks,
    target_scores,
)
from itemic.evaluate.seen import SeenItems, seen_items

__all__ = ["EvaluateConfig", "EvaluationSet", "RankedLists", "evaluation_set", "rank_examples"]

log = logging.getLogger("itemic")

_HEADLINE_CUTOFF = 10
_MAX_CELLS = 1 << 22
"""Longer lists, asked for to decide a tie, hold at most this many cells in one call: 64 MiB."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated and how."""

    split: Literal["test", "valid"] = "test"
    """Examples to rank; choices are made on valid, final figures come from test."""
    cutoffs: tuple[int, ...] = (1, 3, 5, 10, 20, 50)
    """List lengths K of the metrics; the largest is the length asked of a recommender. MiniOneRec's."""
    exclude_history: bool | Literal["auto"] = "auto"
    """Whether items the user has seen are no candidates; auto excludes them where the dataset has no repeats, since
    a seen item cannot be the target there."""
    batch_size: int = 256
    """Examples ranked in one call."""
    max_examples: int = 0
    """Ranks a random subset of this many examples, drawn by the seed; 0 ranks all."""
    num_bootstrap: int = 1000
    """Resamples behind every interval and p-value; 1000 gives the ends of a 95% interval to about 2% of its width."""
    confidence: float = 0.95
    """Probability mass inside an interval."""
    num_latency_requests: int = 50
    """Requests of one user at a time behind the latency of each recommender in ``metrics.json``; 0 measures none."""

    def __post_init__(self) -> None:
        if not self.cutoffs or list(self.cutoffs) != sorted(set(self.cutoffs)) or self.cutoffs[0] < 1:
            raise ConfigError(f"cutoffs {self.cutoffs}: expected different numbers from 1 up, rising")
        for name, least in (("batch_size", 1), ("max_examples", 0), ("num_bootstrap", 1), ("num_latency_requests", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, found {getattr(self, name)}")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must lie between 0 and 1, found {self.confidence}")

    @property
    def headline_cutoff(self) -> int:
        """Cut-off of breakdowns and comparisons: 10 where it is one of the cut-offs, else the largest."""
        return _HEADLINE_CUTOFF if _HEADLINE_CUTOFF in self.cutoffs else self.cutoffs[-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSet:
    """The examples that every recommender ranks."""

    examples: pl.DataFrame
    """EXAMPLE_SCHEMA: the split, or the subset drawn from it."""
    target: Int[np.ndarray, "B"]
    """Item index of each example's held-out item."""
    owner: Int[np.ndarray, "B"]
    """Number of each example's user."""
    history_length: Int[np.ndarray, "B"]
    """Interactions of the user before the target, those beyond the prepared maximum included."""
    seen: SeenItems | None
    """Items that are no candidates; None where all are."""
    num_items: int
    """Size of the catalogue."""
    train_counts: Int[np.ndarray, "N"]
    """Training interactions of every item."""
    is_cold: Bool[np.ndarray, "N"]
    """Items that the cold-start protocol keeps from all learning."""

    def __len__(self) -> int:
        return self.examples.height

    def histories(self, rows: Int[np.ndarray, "b"]) -> list[list[int]]:
        """Returns the histories of some examples."""
        lists: list[list[int]] = self.examples["history"].gather(rows).to_list()
        return lists

    def histories_hash(self) -> str:
        """Returns the SHA-256 of all histories: two sets that share it ask the same questions."""
        histories = self.examples["history"]
        lengths, items = histories.list.len(), histories.filter(histories.list.len() > 0).explode()
        digest = hashlib.sha256(np.ascontiguousarray(lengths.to_numpy(), dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(items.to_numpy(), dtype="<i8").tobytes())
        return digest.hexdigest()

    def excluded(self, rows: Int[np.ndarray, "b"]) -> list[list[int]] | None:
        """Returns what some examples must not be shown, None where nothing is excluded."""
        return None if self.seen is None else self.seen.lists(rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class RankedLists:
    """One recommender's lists for an EvaluationSet, and where the targets stand in them."""

    item_index: Int[np.ndarray, "B k"]
    """Items, best first; -1 is an empty slot."""
    score: Float[np.ndarray, "B k"]
    """Their scores."""
    valid: Bool[np.ndarray, "B k"]
    """Slots with a candidate that is not listed before."""
    num_allowed: Int[np.ndarray, "B"]
    """Number of candidates."""
    ranks: TargetRanks
    """The targets' ranks."""
    users_per_s: float
    """Examples ranked a second of wall time."""


def evaluation_set(dataset: Dataset, config: EvaluateConfig, *, seed: int) -> EvaluationSet:
    """Returns the examples to rank, with what is excluded for each.

    Raises:
        DataError: if the split is empty, or an example's target is not where the log must have it.
    """
    examples = dataset.split(config.split)
    if examples.is_empty():
        raise DataError(f"the {config.split} split has no examples")
    if 0 < config.max_examples < examples.height:
        rng = derive_rng(seed, "evaluate", "examples")
        examples = examples[np.sort(rng.choice(examples.height, config.max_examples, replace=False)).tolist()]
    exclude = not dataset.keeps_repeats if config.exclude_history == "auto" else config.exclude_history
    seen = seen_items(dataset, examples)
    cases = EvaluationSet(
        examples=examples,
        target=examples["target"].to_numpy(),
        owner=examples["user_id"].rank("dense").cast(pl.Int64).to_numpy(),
        # Published histories may hold more than the log has.
        history_length=np.maximum(seen.num_interactions, examples["history"].list.len().cast(pl.Int64).to_numpy()),
        seen=seen if exclude else None,
        num_items=dataset.num_items,
        train_counts=dataset.train_counts(),
        is_cold=cold_mask(dataset.items),
    )
    if cases.seen is not None and cases.seen.holds_target.any():
        lost = int(cases.seen.holds_target.sum())
        log.warning("%d of %d targets are seen items, which are excluded: they cannot be hit", lost, len(cases))
    return cases


def rank_examples(recommender: Recommender, cases: EvaluationSet, k: int, batch_size: int) -> RankedLists:
    """Returns the recommender's lists of ``k`` items and the rank of every target.

    Raises:
        DataError: if the recommender returns a malformed list.
    """
    parts = []
    with progress_bar(f"ranking with {recommender.name}", total=len(cases)) as advance:
        for start in range(0, len(cases), batch_size):
            rows = np.arange(start, min(start + batch_size, len(cases)))
            parts.append(_rank_batch(recommender, cases, rows, k))
            advance(len(rows), "")
    return RankedLists(
        item_index=np.concatenate([part.item_index for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        valid=np.concatenate([part.valid for part in parts]),
        num_allowed=np.concatenate([part.num_allowed for part in parts]),
        ranks=TargetRanks(
            num_better=np.concatenate([part.ranks.num_better for part in parts]),
            num_tied=np.concatenate([part.ranks.num_tied for part in parts]),
        ),
        users_per_s=len(cases) / sum(len(part.score) / part.users_per_s for part in parts),
    )


def _rank_batch(recommender: Recommender, cases: EvaluationSet, rows: Int[np.ndarray, "b"], k: int) -> RankedLists:
    started = time.perf_counter()
    lists = _recommend(recommender, cases, rows, k)
    seconds = max(time.perf_counter() - started, 1e-9)
    exclude = cases.excluded(rows)
    num_excluded = np.array([len(set(items)) for items in exclude]) if exclude else np.zeros(len(rows), dtype=np.int64)
    return RankedLists(
        item_index=lists.item_index,
        score=lists.score,
        valid=valid_slots(lists.item_index, cases.num_items, exclude),
        num_allowed=cases.num_items - num_excluded,
        ranks=_decide_ties(recommender, cases, rows, lists),
        users_per_s=len(rows) / seconds,
    )


def _recommend(recommender: Recommender, cases: EvaluationSet, rows: Int[np.ndarray, "b"], k: int) -> Recommendations:
    lists = recommender.recommend(cases.histories(rows), k, exclude=cases.excluded(rows))
    check_recommendations(lists, len(rows), k, recommender.name)
    return lists


def _decide_ties(
    recommender: Recommender, cases: EvaluationSet, rows: Int[np.ndarray, "b"], lists: Recommendations
) -> TargetRanks:
    """Returns the targets' ranks, those decided that depend on the part of a tie that the lists cut off.

    Which of the tied items a list shows is arbitrary (the lower index, say). Where the target may be among those not
    shown, a list long enough to hold the whole tie tells; without it the expectation would be too low. It tells no
    more than that: a search that is asked for more may reach deeper, but a target that it missed before stays missed.
    """
    ranks = target_ranks(lists, cases.target[rows])
    undecided = np.flatnonzero(is_cut_by_tie(lists, ranks))
    if not len(undecided):
        return ranks
    k = min(cases.num_items, lists.item_index.shape[1] + int(lists.num_tied_beyond[undecided].max()))
    last_score = lists.score[:, -1]
    is_tied = np.zeros(len(rows), dtype=bool)
    step = max(1, _MAX_CELLS // k)
    for start in range(0, len(undecided), step):
        some = undecided[start : start + step]
        longer = _recommend(recommender, cases, rows[some], k)
        is_tied[some] = target_scores(longer, cases.target[rows[some]]) == last_score[some]
    at_the_end = ranks_at(lists, last_score)
    return TargetRanks(
        num_better=np.where(is_tied, at_the_end.num_better, ranks.num_better),
        num_tied=np.where(is_tied, at_the_end.num_tied, ranks.num_tied),
    )
