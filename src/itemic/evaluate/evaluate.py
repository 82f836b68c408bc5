"""Evaluates recommenders on one split and writes ``metrics.json`` and ``rankings/``; knows no model."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError, DataError
from itemic.core.files import atomic_folder, write_json, write_parquet
from itemic.core.ranking import Recommender
from itemic.core.seeds import derive_rng
from itemic.evaluate.breakdown import HISTORY_LENGTH_EDGES, TARGET_POPULARITY_EDGES, buckets, temperatures
from itemic.evaluate.latency import measure_latency
from itemic.evaluate.metrics.coverage import coverage
from itemic.evaluate.metrics.diversity import diversity
from itemic.evaluate.metrics.gini import gini
from itemic.evaluate.metrics.invalid import invalid_rate
from itemic.evaluate.metrics.labels import RANK_METRICS, rank_metric
from itemic.evaluate.metrics.novelty import novelty
from itemic.evaluate.protocol import EvaluateConfig, EvaluationSet, RankedLists, evaluation_set, rank_examples
from itemic.evaluate.ranks import TargetRanks
from itemic.evaluate.significance import Comparison, bootstrap_intervals, paired_comparison

__all__ = ["Evaluation", "RowFacts", "evaluate_all", "evaluate_recommender", "ranking_file_name"]

Values = dict[str, dict[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class RowFacts:
    """What is known of a recommender beside its lists; None where nobody knows."""

    fit_s: float | None = None
    """Wall time of its training."""
    fit_cpu_s: float | None = None
    """Processor time of its training."""
    num_parameters: int | None = None
    """Numbers that were fitted."""
    dtype: str | None = None
    """Number format that it computed in."""
    settings: Mapping[str, Any] | None = None
    """Settings it was fitted with."""
    published: str = ""
    """Method whose published figure stands beside it, by its name in the list of published figures."""
    made_from: str = ""
    """Hash of all that it was made with, the seed aside: rows of several runs that share it are seeds of one. Empty
    where nobody knows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What one recommender reached."""

    name: str
    """Name of the recommender."""
    metrics: Values
    """Label to value, with low and high where each example has a value of its own; the value of a list metric is None
    where no list has an allowed item up to its cut."""
    breakdown: dict[str, list[dict[str, Any]]]
    """Groups by ``history_length``, by ``target_popularity`` and, where the dataset holds items out, by
    ``target_temperature``: bucket, num_examples, metrics."""
    users_per_s: float
    """Examples ranked a second of wall time."""
    rankings: pl.DataFrame
    """A row an example: example_id, user_id, target, num_better, num_tied, items and scores (best first)."""


def evaluate_recommender(
    recommender: Recommender,
    dataset: Dataset,
    config: EvaluateConfig,
    *,
    seed: int,
    vectors: Float[np.ndarray, "N D"] | None = None,
) -> Evaluation:
    """Returns the recommender's metrics on the configured split.

    The seed chooses the subset (if any) and the resamples; two recommenders evaluated with one seed share both.

    Args:
        recommender: What to evaluate.
        dataset: Catalogue, log and splits.
        config: Protocol.
        seed: Of the run.
        vectors: The items' text vectors, by which lists are diverse; without them diversity is not measured.

    Raises:
        DataError: if the split is empty, a list is malformed, no allowed item is listed at all, or there is not one
            vector an item.
    """
    _check_vectors(vectors, dataset)
    return _evaluate(recommender, evaluation_set(dataset, config, seed=seed), config, seed, vectors)


def evaluate_all(
    recommenders: Sequence[Recommender],
    dataset: Dataset,
    config: EvaluateConfig,
    run_folder: Path,
    seed: int,
    *,
    facts: Mapping[str, RowFacts] | None = None,
    benchmark: str = "",
    vectors: Float[np.ndarray, "N D"] | None = None,
    references: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Evaluates the recommenders on the same examples, writes the figures, and returns them.

    ``metrics.json`` has the protocol, each recommender's metrics, breakdown, speed and cost, and the paired
    comparisons of the references with every other one; ``rankings/<name>.parquet`` has each one's lists.

    Args:
        recommenders: What to evaluate.
        dataset: Catalogue, log and splits.
        config: Protocol.
        run_folder: Where the files go.
        seed: Of the run.
        facts: What else is known of each recommender, by its name.
        benchmark: Name of the data set and protocol in the list of published figures; empty where there is none.
        vectors: The items' text vectors, by which lists are diverse; without them diversity is not measured.
        references: Names of those that every other one is compared with; None takes the first recommender, none at all
            the best by NDCG at the headline cut-off.

    Raises:
        ConfigError: if there is no recommender, two would write one file, or a reference is none of them.
        DataError: as ``evaluate_recommender``.
    """
    _check_names(recommenders, references or ())
    _check_vectors(vectors, dataset)
    cases = evaluation_set(dataset, config, seed=seed)
    evaluations = [_evaluate(recommender, cases, config, seed, vectors) for recommender in recommenders]
    latencies = {
        recommender.name: measure_latency(
            recommender, cases, config.cutoffs[-1], num_requests=config.num_latency_requests, seed=seed
        )
        for recommender in recommenders
    }
    figures = {
        "protocol": {**_protocol(cases, dataset, config, seed), "benchmark": benchmark},
        "recommenders": {
            evaluation.name: {
                "metrics": evaluation.metrics,
                "breakdown": evaluation.breakdown,
                "users_per_s": evaluation.users_per_s,
                "latency_ms": latencies[evaluation.name],
                **asdict((facts or {}).get(evaluation.name, RowFacts())),
            }
            for evaluation in evaluations
        },
        "comparisons": [
            asdict(comparison)
            for pair in _pairs(evaluations, references, config)
            for comparison in _compare(*pair, config, seed)
        ],
    }
    with atomic_folder(run_folder / "rankings") as folder:
        for evaluation in evaluations:
            write_parquet(folder / ranking_file_name(evaluation.name), evaluation.rankings)
    write_json(run_folder / "metrics.json", figures)
    return figures


def ranking_file_name(name: str) -> str:
    """Returns the file of a recommender's lists in ``rankings/``: its name in lower case with hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".parquet"


def _check_names(recommenders: Sequence[Recommender], references: Sequence[str]) -> None:
    if not recommenders:
        raise ConfigError("expected at least one recommender to evaluate, found none")
    files = [ranking_file_name(recommender.name) for recommender in recommenders]
    for position, file in enumerate(files):
        if file in files[:position]:
            raise ConfigError(f"two recommenders would write rankings/{file}: give them different names")
    names = [recommender.name for recommender in recommenders]
    for reference in references:
        if reference not in names:
            raise ConfigError(f"reference {reference!r}: the recommenders are {', '.join(names)}")


def _check_vectors(vectors: Float[np.ndarray, "N D"] | None, dataset: Dataset) -> None:
    if vectors is not None and len(vectors) != dataset.num_items:
        raise DataError(f"expected a vector for each of {dataset.num_items} items, found {len(vectors)}")


def _evaluate(
    recommender: Recommender,
    cases: EvaluationSet,
    config: EvaluateConfig,
    seed: int,
    vectors: Float[np.ndarray, "N D"] | None,
) -> Evaluation:
    lists = rank_examples(recommender, cases, config.cutoffs[-1], config.batch_size)
    labels = [f"{name}@{cutoff}" for cutoff in config.cutoffs for name in RANK_METRICS]
    rng = derive_rng(seed, "evaluate", "bootstrap")
    ranked = _with_intervals(labels, _values(lists.ranks, labels), cases.owner, config, rng)
    return Evaluation(
        name=recommender.name,
        metrics=ranked | _list_metrics(recommender.name, lists, cases, config.cutoffs, vectors),
        breakdown=_breakdown(lists.ranks, cases, config, derive_rng(seed, "evaluate", "breakdown")),
        users_per_s=lists.users_per_s,
        rankings=_rankings(lists, cases),
    )


def _values(ranks: TargetRanks, labels: Sequence[str]) -> Float[np.ndarray, "B M"]:
    return np.stack([rank_metric(label, ranks.num_better, ranks.num_tied) for label in labels], axis=1)


def _with_intervals(
    labels: Sequence[str],
    values: Float[np.ndarray, "B M"],
    owner: Int[np.ndarray, "B"],
    config: EvaluateConfig,
    rng: np.random.Generator,
) -> Values:
    low, high = bootstrap_intervals(
        values, owner, num_bootstrap=config.num_bootstrap, confidence=config.confidence, rng=rng
    )
    columns = zip(labels, values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return {label: {"value": value, "low": below, "high": above} for label, value, below, above in columns}


def _list_metrics(
    name: str,
    lists: RankedLists,
    cases: EvaluationSet,
    cutoffs: Sequence[int],
    vectors: Float[np.ndarray, "N D"] | None,
) -> Values:
    """Returns what the lists are like at each cut; Gini and novelty are None at a cut with no allowed item at all.

    Diversity is None at a cut where no list has two allowed items, and not there at a cut of one item.
    """
    listed = np.where(lists.valid, lists.item_index, -1)
    if not lists.valid.any():
        raise DataError(f"{name} lists no allowed item for any of {len(cases)} examples")
    values: Values = {}
    for cutoff in cutoffs:
        top = listed[:, :cutoff]
        invalid = invalid_rate(lists.item_index[:, :cutoff], lists.valid[:, :cutoff], lists.num_allowed)
        values[f"Coverage@{cutoff}"] = {"value": coverage(top, cases.num_items)}
        has_items = bool((top >= 0).any())
        values[f"Gini@{cutoff}"] = {"value": gini(top, cases.num_items) if has_items else None}
        values[f"Novelty@{cutoff}"] = {"value": novelty(top, cases.train_counts) if has_items else None}
        if vectors is not None and cutoff > 1:
            values[f"Diversity@{cutoff}"] = {"value": diversity(top, vectors)}
        values[f"Invalid@{cutoff}"] = {"value": invalid}
    return values


def _breakdown(
    ranks: TargetRanks, cases: EvaluationSet, config: EvaluateConfig, rng: np.random.Generator
) -> dict[str, list[dict[str, Any]]]:
    labels = _headline_labels(config)
    values = _values(ranks, labels)
    groups = {
        "history_length": buckets(cases.history_length, HISTORY_LENGTH_EDGES),
        "target_popularity": buckets(cases.train_counts[cases.target], TARGET_POPULARITY_EDGES),
    }
    if cases.is_cold.any():
        groups["target_temperature"] = temperatures(cases.is_cold[cases.target])
    return {
        by: [
            {
                "bucket": bucket,
                "num_examples": len(rows),
                "metrics": _with_intervals(labels, values[rows], cases.owner[rows], config, rng),
            }
            for bucket, rows in members
        ]
        for by, members in groups.items()
    }


def _headline_labels(config: EvaluateConfig) -> list[str]:
    return [f"{name}@{config.headline_cutoff}" for name in ("HR", "NDCG")]


def _pairs(
    evaluations: Sequence[Evaluation], references: Sequence[str] | None, config: EvaluateConfig
) -> Iterator[tuple[Evaluation, Evaluation]]:
    """Yields each reference with every other recommender, each pair once."""
    if references is None:
        first = evaluations[:1]
    elif not references:
        label = f"NDCG@{config.headline_cutoff}"
        first = [max(evaluations, key=lambda evaluation: evaluation.metrics[label]["value"] or 0.0)]
    else:
        first = [next(one for one in evaluations if one.name == name) for name in references]
    for position, reference in enumerate(first):
        done = [one.name for one in first[: position + 1]]
        yield from ((reference, other) for other in evaluations if other.name not in done)


def _compare(first: Evaluation, other: Evaluation, config: EvaluateConfig, seed: int) -> list[Comparison]:
    return [
        paired_comparison(
            (first.rankings, other.rankings),
            (first.name, other.name),
            label,
            num_resamples=config.num_bootstrap,
            confidence=config.confidence,
            rng=derive_rng(seed, "evaluate", "comparison", label),
        )
        for label in _headline_labels(config)
    ]


def _protocol(cases: EvaluationSet, dataset: Dataset, config: EvaluateConfig, seed: int) -> dict[str, Any]:
    return {
        "split": config.split,
        "num_examples": len(cases),
        "num_users": len(np.unique(cases.owner)),
        "num_candidates": cases.num_items,
        "exclude_history": cases.seen is not None,
        "cutoffs": list(config.cutoffs),
        "ties": "expected",
        "confidence": config.confidence,
        "num_bootstrap": config.num_bootstrap,
        "num_latency_requests": config.num_latency_requests,
        "num_cold_items": int(cases.is_cold.sum()),
        "max_history": dataset.info.get("max_history"),
        "rebuilt_histories": bool(dataset.info.get("rebuilt_histories", False)),
        "histories_hash": cases.histories_hash(),
        "seed": seed,
    }


def _rankings(lists: RankedLists, cases: EvaluationSet) -> pl.DataFrame:
    num_filled = pl.lit(pl.Series((lists.item_index != -1).sum(axis=1)))
    return cases.examples.select("example_id", "user_id", "target").with_columns(
        pl.Series("num_better", lists.ranks.num_better),
        pl.Series("num_tied", lists.ranks.num_tied),
        pl.Series("items", lists.item_index).arr.to_list().list.head(num_filled),
        pl.Series("scores", lists.score).arr.to_list().list.head(num_filled),
    )
