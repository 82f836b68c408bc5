"""The result tables: every recommender with intervals at every cut-off, and the paired comparisons."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from itemic.core.page.formats import (
    write_duration,
    write_interval,
    write_metric,
    write_milliseconds,
    write_number,
    write_p_value,
    write_percent,
    write_signed,
)
from itemic.evaluate.repeats import repeat_notes
from itemic.evaluate.report.artifacts import RunArtifacts
from itemic.evaluate.report.focus import Standing
from itemic.evaluate.report.sections.parts import Missing
from itemic.evaluate.significance import holm

__all__ = [
    "MEANINGS",
    "Board",
    "BoardCell",
    "BoardColumn",
    "BoardRow",
    "Costs",
    "Duel",
    "ResultsSection",
    "describe_results",
]

_RANK_METRICS = ("NDCG", "HR", "MRR", "Recall")
_LIST_METRICS = ("Coverage", "Gini", "Novelty", "Diversity", "Invalid")
_COSTS = (
    (("num_parameters",), "Parameters", write_number),
    (("fit_s",), "Fit", write_duration),
    (("fit_cpu_s",), "Fit, processor", write_duration),
    (("users_per_s",), "Users/s", write_number),
    (("latency_ms", "p50"), "Latency, median", write_milliseconds),
    (("latency_ms", "p95"), "Latency, 95%", write_milliseconds),
)
"""Where each cost stands in a recommender's entry, its column head, and how it is written."""

MEANINGS = {
    "HR@K": "Share of examples whose target is among the first K items.",
    "NDCG@K": "1 / log₂(rank + 1) of the target, 0 beyond K, averaged.",
    "MRR@K": "1 / rank of the target, 0 beyond K, averaged.",
    "Recall@K": "Share of an example's targets among the first K items; with one target it is HR.",
    "Coverage@K": "Share of the catalogue that is in at least one list.",
    "Gini@K": "How unevenly items share the slots: 0 all alike, near 1 a few take all.",
    "Novelty@K": "Mean surprise of the listed items in bits, by their training popularity.",
    "Diversity@K": "Mean distance, 1 − cosine of the texts' vectors, between two items of a list.",
    "Invalid@K": "Share of slots without a real, allowed item.",
    "Parameters": "Numbers that were fitted.",
    "Fit": "Wall time that fitting took, without the search for settings.",
    "Fit, processor": "Processor time that fitting took, all cores together.",
    "Users/s": "Users ranked a second in batches, as measured in this run.",
    "Latency, median": "Time that half of the requests of one user at a time stay below, as measured in this run.",
    "Latency, 95%": "Time that 19 in 20 requests of one user at a time stay below, as measured in this run.",
}
"""One sentence on each column of a result table: the tooltips of the heads, and the page's glossary."""


@dataclass(frozen=True, kw_only=True)
class BoardColumn:
    """A column of a result table."""

    label: str
    """Column head."""
    meaning: str
    """One sentence."""


@dataclass(frozen=True, kw_only=True)
class BoardCell:
    """One figure of a result table."""

    value: int | float | None
    """For sorting."""
    text: str
    interval: str = ""
    """The interval in words; empty without one."""
    span: tuple[float, float, float] | None = None
    """Low end, value and high end as shares of the column's widest interval, for drawing; None without one."""
    is_best: bool = False


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """One recommender of a result table."""

    name: str
    is_focus: bool
    cells: tuple[BoardCell, ...]


@dataclass(frozen=True, kw_only=True)
class Board:
    """The result table of one cut-off."""

    cutoff: int
    columns: tuple[BoardColumn, ...]
    rows: tuple[BoardRow, ...]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the recommenders took to fit and to ask."""

    columns: tuple[BoardColumn, ...]
    rows: tuple[BoardRow, ...]


@dataclass(frozen=True, kw_only=True)
class Duel:
    """A paired comparison, written for a reader."""

    a: str
    b: str
    metric: str
    difference: float
    text: str
    interval: str
    p_value: str
    adjusted: str
    """The p-value after Holm's correction for all comparisons of this metric."""
    verdict: str
    """``better``, ``worse`` or ``unclear``, of a against b."""
    span: tuple[float, float, float]
    """Low end, difference and high end on a scale where 0.5 is no difference."""


@dataclass(frozen=True, kw_only=True)
class ResultsSection:
    """Result tables and comparisons."""

    protocol: str
    """How the figures were made, in a sentence."""
    boards: tuple[Board, ...]
    cutoff: int
    """The cut-off shown first."""
    costs: Costs | None
    """What each recommender took; None where nobody measured."""
    duels: tuple[Duel, ...]
    drops_recall: bool
    """Whether recall is left out because it equals the hit rate."""
    alpha: float
    """Chance of error that the intervals and verdicts allow."""
    notes: tuple[str, ...] = ()
    """What would read as a mistake without a word, below the result tables."""


def describe_results(artifacts: RunArtifacts, place: Standing | None, cutoff: int) -> ResultsSection | Missing:
    """Returns the section, or what is missing for it."""
    metrics = artifacts.metrics
    if metrics is None or place is None:
        return Missing.of("metrics.json", "evaluate")
    shown, drops_recall = _rank_metrics(metrics)
    alpha = round(1 - metrics["protocol"].get("confidence", 0.95), 6)
    cutoffs = sorted(metrics["protocol"]["cutoffs"])
    return ResultsSection(
        protocol=_describe_protocol(metrics["protocol"]),
        boards=tuple(_board(metrics, place, one, shown) for one in cutoffs),
        cutoff=cutoff,
        costs=_costs(metrics["recommenders"], place),
        duels=tuple(_duels(metrics.get("comparisons", ()), place, alpha)),
        drops_recall=drops_recall,
        alpha=alpha,
        notes=repeat_notes(metrics["protocol"], metrics["recommenders"]),
    )


def _rank_metrics(metrics: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Returns the ranking metrics to show, and whether recall was left out for being the hit rate everywhere."""
    cutoffs = metrics["protocol"]["cutoffs"]
    scores = [entry["metrics"] for entry in metrics["recommenders"].values()]
    present = [name for name in _RANK_METRICS if all(f"{name}@{cut}" in one for one in scores for cut in cutoffs)]
    same = {"HR", "Recall"} <= set(present) and all(
        one[f"Recall@{cut}"]["value"] == one[f"HR@{cut}"]["value"] for one in scores for cut in cutoffs
    )
    return [name for name in present if not (same and name == "Recall")], same


def _describe_protocol(protocol: Mapping[str, Any]) -> str:
    seen = "seen items left out" if protocol.get("exclude_history") else "seen items may come again"
    return (
        f"{protocol['num_examples']:,} {protocol['split']} examples, each ranked against the full catalogue of "
        f"{protocol['num_candidates']:,} items ({seen}); equal scores count by their expected rank; "
        f"{protocol['confidence']:.0%} intervals from {protocol['num_bootstrap']:,} bootstrap resamples of users."
    )


def _board(metrics: Mapping[str, Any], place: Standing, cutoff: int, rank_metrics: Sequence[str]) -> Board:
    entries = metrics["recommenders"]
    listing = [name for name in _LIST_METRICS if any(f"{name}@{cutoff}" in one["metrics"] for one in entries.values())]
    columns = [_rank_cells(entries, place.order, f"{name}@{cutoff}") for name in rank_metrics]
    columns += [_list_cells(entries, place.order, name, cutoff) for name in listing]
    heads = [BoardColumn(label=f"{name}@{cutoff}", meaning=MEANINGS[f"{name}@K"]) for name in [*rank_metrics, *listing]]
    return Board(cutoff=cutoff, columns=tuple(heads), rows=_rows(place, columns))


def _rows(place: Standing, columns: Sequence[Sequence[BoardCell]]) -> tuple[BoardRow, ...]:
    return tuple(
        BoardRow(name=name, is_focus=name == place.focus, cells=cells)
        for name, cells in zip(place.order, zip(*columns, strict=True), strict=True)
    )


def _costs(entries: Mapping[str, Any], place: Standing) -> Costs | None:
    """Returns the table of what each recommender took, with the columns of which anything is known."""
    heads, columns = [], []
    for keys, label, write in _COSTS:
        values = [_inside(entries[name], keys) for name in place.order]
        if any(value is not None for value in values):
            heads.append(BoardColumn(label=label, meaning=MEANINGS[label]))
            columns.append([BoardCell(value=value, text=write(value)) for value in values])
    return Costs(columns=tuple(heads), rows=_rows(place, columns)) if heads else None


def _inside(entry: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Returns a value of nested mappings, None where one is missing on the way."""
    found: Any = entry
    for key in keys:
        found = None if found is None else found.get(key)
    return found


def _rank_cells(entries: Mapping[str, Any], order: Iterable[str], label: str) -> list[BoardCell]:
    scores = [entries[name]["metrics"][label] for name in order]
    best = max(one["value"] for one in scores)
    widest = max([best, *(one["high"] for one in scores if one.get("high") is not None)]) or 1.0
    return [
        BoardCell(
            value=one["value"],
            text=write_metric(one["value"]),
            interval=write_interval(one.get("low"), one.get("high")),
            span=(one["low"] / widest, one["value"] / widest, one["high"] / widest)
            if one.get("low") is not None
            else None,
            is_best=one["value"] == best > 0,
        )
        for one in scores
    ]


def _list_cells(entries: Mapping[str, Any], order: Iterable[str], name: str, cutoff: int) -> list[BoardCell]:
    values = [entries[one]["metrics"].get(f"{name}@{cutoff}", {}).get("value") for one in order]
    return [BoardCell(value=value, text=_write_list_metric(name, value)) for value in values]


def _write_list_metric(name: str, value: float | None) -> str:
    if name in ("Coverage", "Invalid") or value is None:
        return write_percent(value)
    return f"{value:.3f}" if name == "Gini" else f"{value:.2f}"


def _duels(comparisons: Sequence[Mapping[str, Any]], place: Standing, alpha: float) -> list[Duel]:
    """Returns the comparisons by metric, that of the headline first, and in each the best rivals of the focus first.

    Where the focus was compared with every other recommender, only its own: the others would only blunt the correction.
    """
    duels = []
    own = [made for made in comparisons if place.focus in (made["a"], made["b"])]
    if {name for made in own for name in (made["a"], made["b"])} == set(place.order):
        comparisons = own
    metrics = dict.fromkeys(made["metric"] for made in comparisons)
    for metric in sorted(metrics, key=lambda metric: metric != place.label):
        group = [_turned(made, place.focus) for made in comparisons if made["metric"] == metric]
        adjusted = holm([made["p_value"] for made in group])
        reach = max(max(abs(made["low"]), abs(made["high"])) for made in group) or 1.0
        pairs = sorted(zip(group, adjusted, strict=True), key=lambda pair: place.order.index(pair[0]["b"]))
        duels += [_duel(made, p_adjusted, reach, alpha) for made, p_adjusted in pairs]
    return duels


def _turned(made: Mapping[str, Any], focus: str) -> Mapping[str, Any]:
    if made["b"] != focus:
        return made
    turned = {"a": made["b"], "b": made["a"], "difference": -made["difference"]}
    return {**made, **turned, "low": -made["high"], "high": -made["low"]}


def _duel(made: Mapping[str, Any], p_adjusted: float, reach: float, alpha: float) -> Duel:
    low, difference, high = made["low"], made["difference"], made["high"]
    verdict = "unclear" if p_adjusted >= alpha else "better" if difference > 0 else "worse"
    return Duel(
        a=made["a"],
        b=made["b"],
        metric=made["metric"],
        difference=difference,
        text=write_signed(difference),
        interval=f"{write_signed(low)} to {write_signed(high)}",
        p_value=write_p_value(made["p_value"]),
        adjusted=write_p_value(p_adjusted),
        verdict=verdict,
        span=(0.5 + low / reach / 2, 0.5 + difference / reach / 2, 0.5 + high / reach / 2),
    )
