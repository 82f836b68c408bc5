"""Rows of any runs become one table: means over seeds, intervals, tests, published figures; knows no format."""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from itemic.core.errors import ConfigError
from itemic.core.seeds import derive_rng
from itemic.evaluate.compare.grouping import Grouping, RowGroup, group_rows
from itemic.evaluate.compare.published import find_benchmark, find_figures
from itemic.evaluate.compare.records import ComparisonTable, Difference, Estimate, PublishedCheck, TableRow, Verdict
from itemic.evaluate.compare.runs import RunRow, check_protocols
from itemic.evaluate.metrics.labels import parse_label, rank_metric
from itemic.evaluate.repeats import repeat_notes
from itemic.evaluate.significance import bootstrap_intervals, holm, paired_p_values

__all__ = ["CompareConfig", "build_table"]

_USUAL_CUTOFF = 10
_LIST_METRICS = ("Coverage", "Gini", "Novelty", "Diversity", "Invalid")
_TEMPERATURE = "target_temperature"
_PROTOCOL_SHOWN = ("split", "num_examples", "num_users", "num_candidates", "exclude_history", "cutoffs", "ties")
_FACTS = ("users_per_s", "num_parameters", "fit_s", "fit_cpu_s")
_LATENCY = {"p50": "latency_p50_ms", "p95": "latency_p95_ms"}


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What is compared and how."""

    metrics: tuple[str, ...] = ()
    """Ranking metrics beside HR and NDCG at 10 (at the largest cut-off where 10 was not evaluated)."""
    against: str = ""
    """Row that the others are compared with; empty takes the best by NDCG."""
    seeds: Grouping = "auto"
    """Which rows of several runs are seeds of one: ``auto`` those of one name and the same settings, ``name`` those
    of one name, ``apart`` none."""
    confidence: float = 0.95
    """Probability mass inside an interval; tests err with the rest."""
    num_resamples: int = 10_000
    """Bootstrap resamples of users, and random swaps of each test: the least p-value is one in as many."""
    seed: int = 0
    """Of the resamples."""

    def __post_init__(self) -> None:
        for label in self.metrics:
            parse_label(label)
        if self.num_resamples < 1:
            raise ConfigError(f"num_resamples must be at least 1, found {self.num_resamples}")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must lie between 0 and 1, found {self.confidence}")


def build_table(rows: Sequence[RunRow], config: CompareConfig | None = None) -> ComparisonTable:
    """Returns one table of the rows of any runs.

    A row with several seeds is the mean over them, example by example; every interval and test resamples users of
    these means. Holm's correction is made for each metric over all rows that are compared with one.

    Args:
        rows: As ``read_rows`` gives them.
        config: What is compared; None takes the defaults.

    Raises:
        ConfigError: if there is no row, they were not evaluated alike, a metric's cut-off is beyond
            the lists, the reference is no row, or a benchmark or method has no published figures.
    """
    config = config or CompareConfig()
    if not rows:
        raise ConfigError("expected at least one recommender to compare, found none")
    unchecked = check_protocols(rows)
    protocol, benchmark = rows[0].protocol, _benchmark(rows)
    metrics = _metrics(config, protocol["cutoffs"])
    headline = next((label for label in metrics if label.startswith("NDCG")), metrics[0])
    groups, notes = group_rows(rows, config.seeds)
    groups = sorted(groups, key=lambda group: -float(_values(group, [headline]).mean()))
    reference = _reference(groups, config.against)
    estimates = _estimates(groups, metrics, reference, config)
    table_rows = tuple(
        _row(group, each, benchmark, metrics, parse_label(headline)[1])
        for group, each in zip(groups, estimates, strict=True)
    )
    repeats = repeat_notes(protocol, {group.name: group.members[0].entry for group in groups})
    names = list(dict.fromkeys(itertools.chain(*(row.beyond for row in table_rows))))
    return ComparisonTable(
        rows=table_rows,
        metrics=tuple(metrics),
        headline=headline,
        reference=groups[reference].name,
        beyond=tuple(name for name in names if any(row.beyond.get(name) is not None for row in table_rows)),
        protocol={key: value for key, value in protocol.items() if key in _PROTOCOL_SHOWN},
        benchmark=benchmark,
        confidence=config.confidence,
        num_resamples=config.num_resamples,
        notes=(*unchecked, *notes, *_notes(benchmark, protocol, table_rows), *repeats),
    )


def _benchmark(rows: Sequence[RunRow]) -> str:
    return next((str(row.protocol["benchmark"]) for row in rows if row.protocol.get("benchmark")), "")


def _metrics(config: CompareConfig, cutoffs: Sequence[int]) -> list[str]:
    usual = _USUAL_CUTOFF if _USUAL_CUTOFF in cutoffs else max(cutoffs)
    metrics = list(dict.fromkeys((f"HR@{usual}", f"NDCG@{usual}", *config.metrics)))
    for label in metrics:
        if parse_label(label)[1] > max(cutoffs):
            raise ConfigError(f"metric {label}: the lists of these runs have {max(cutoffs)} items")
    return metrics


def _reference(groups: Sequence[RowGroup], against: str) -> int:
    names = [group.name for group in groups]
    if not against:
        return 0
    if against not in names:
        alike = [name for name in names if name.lower() == against.lower()]
        if len(alike) == 1:
            return names.index(alike[0])
        nearest = difflib.get_close_matches(against, names, n=1, cutoff=0.0)[0]
        raise ConfigError(f"against {against!r}: no such row; did you mean {nearest}? There are {', '.join(names)}")
    return names.index(against)


def _values(group: RowGroup, metrics: Sequence[str]) -> Float[np.ndarray, "S M B"]:
    tables = [(row.rankings["num_better"].to_numpy(), row.rankings["num_tied"].to_numpy()) for row in group.members]
    return np.array([[rank_metric(label, *table) for label in metrics] for table in tables])


def _estimates(
    groups: Sequence[RowGroup], metrics: Sequence[str], reference: int, config: CompareConfig
) -> list[dict[str, Estimate]]:
    """Returns every row's estimates by metric; all of a metric share their resamples and swaps."""
    found: list[dict[str, Estimate]] = [{} for _ in groups]
    owner = groups[0].members[0].rankings["user_id"].rank("dense").cast(pl.Int64).to_numpy()
    for label in metrics:
        values = [_values(group, [label])[:, 0] for group in groups]
        means = np.stack([each.mean(axis=0) for each in values], axis=1)
        totals = means.mean(axis=0)
        best = int(totals.argmax())
        low, high = bootstrap_intervals(
            means,
            owner,
            num_bootstrap=config.num_resamples,
            confidence=config.confidence,
            rng=derive_rng(config.seed, "compare", "interval", label),
        )
        to_best = _differences(groups, means, owner, best, label, config)
        to_reference = to_best if best == reference else _differences(groups, means, owner, reference, label, config)
        for row, by_seed in enumerate(values):
            seeds = by_seed.mean(axis=1)
            found[row][label] = Estimate(
                value=float(totals[row]),
                low=float(low[row]),
                high=float(high[row]),
                by_seed=tuple(seeds.tolist()),
                spread=float(seeds.std(ddof=1)) if len(seeds) > 1 else None,
                is_best=bool(totals[row] == totals[best]),
                to_best=to_best[row],
                to_reference=to_reference[row],
            )
    return found


def _differences(
    groups: Sequence[RowGroup],
    means: Float[np.ndarray, "B R"],
    owner: Int[np.ndarray, "B"],
    other: int,
    label: str,
    config: CompareConfig,
) -> list[Difference | None]:
    """Returns each row's difference to one of them, None for that one."""
    rows = [row for row in range(len(groups)) if row != other]
    if not rows:
        return [None]
    differences = means[:, rows] - means[:, [other]]
    rng = derive_rng(config.seed, "compare", "difference", label)
    low, high = bootstrap_intervals(
        differences, owner, num_bootstrap=config.num_resamples, confidence=config.confidence, rng=rng
    )
    p_values = paired_p_values(differences, owner, num_resamples=config.num_resamples, rng=rng).tolist()
    found: list[Difference | None] = [None] * len(groups)
    for place, (row, adjusted) in enumerate(zip(rows, holm(p_values), strict=True)):
        value = float(differences[:, place].mean())
        is_clear = adjusted < round(1 - config.confidence, 6)
        verdict: Verdict = "unclear" if not is_clear else "above" if value > 0 else "below"
        found[row] = Difference(
            to=groups[other].name,
            value=value,
            low=float(low[place]),
            high=float(high[place]),
            p_value=p_values[place],
            adjusted_p_value=adjusted,
            verdict=verdict,
        )
    return found


def _row(
    group: RowGroup, estimates: Mapping[str, Estimate], benchmark: str, metrics: Sequence[str], cutoff: int
) -> TableRow:
    first = group.members[0].entry
    method = first.get("published") or ""
    figures = find_figures(benchmark, method) if benchmark and method else ()
    dtypes = [row.entry.get("dtype") for row in group.members]
    return TableRow(
        name=group.name,
        runs=tuple(row.run for row in group.members),
        seeds=tuple(row.seed for row in group.members),
        estimates=estimates,
        published_as=method,
        published=tuple(
            PublishedCheck(
                metric=label,
                value=each.metrics[label],
                kind=each.kind,
                source=each.source,
                note=each.note,
                place=_place(estimates[label], each.metrics[label]),
            )
            for label in metrics
            for each in figures
            if label in each.metrics
        ),
        beyond=_mean_of([_beyond(row.entry, cutoff) for row in group.members]),
        dtype=dtypes[0] if len(set(dtypes)) == 1 else None,
    )


def _place(estimate: Estimate, published: float) -> Literal["within", "above", "below"]:
    if estimate.low <= published <= estimate.high:
        return "within"
    return "above" if estimate.low > published else "below"


def _beyond(entry: Mapping[str, Any], cutoff: int) -> dict[str, float | None]:
    """Returns what a row of ``metrics.json`` has beside ranking metrics; what it lacks is not there."""
    found = {
        f"{name}@{cutoff}": entry["metrics"][f"{name}@{cutoff}"]["value"]
        for name in _LIST_METRICS
        if f"{name}@{cutoff}" in entry["metrics"]
    }
    for group in entry.get("breakdown", {}).get(_TEMPERATURE, ()):
        found |= {f"{label}, {group['bucket']}": one["value"] for label, one in group["metrics"].items()}
    latency = entry.get("latency_ms") or {}
    found |= {name: latency[key] for key, name in _LATENCY.items() if key in latency}
    return found | {name: entry[name] for name in _FACTS if entry.get(name) is not None}


def _mean_of(measured: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Returns the mean of each figure over the seeds, None where a seed lacks it."""
    found: dict[str, float | None] = {}
    for name in dict.fromkeys(itertools.chain(*measured)):
        values = [value for value in (one.get(name) for one in measured) if value is not None]
        found[name] = sum(values) / len(values) if len(values) == len(measured) else None
    return found


def _notes(benchmark: str, protocol: Mapping[str, Any], rows: Sequence[TableRow]) -> list[str]:
    """Returns why published figures may not be comparable; nothing where none is shown."""
    if not benchmark or not any(row.published for row in rows):
        return []
    facts = find_benchmark(benchmark)
    counts = [
        (protocol.get("num_examples"), facts.num_examples, "test examples"),
        (protocol.get("num_candidates"), facts.num_candidates, "items"),
    ]
    notes = [
        f"published figures are of {theirs:,} {what}, these rows of {ours:,}: not the same benchmark"
        for ours, theirs, what in counts
        if ours is not None and ours != theirs
    ]
    if protocol.get("split") != "test":
        notes.append(f"published figures are of the test split, these rows of {protocol.get('split')}")
    return [*notes, *filter(None, [facts.note])]
