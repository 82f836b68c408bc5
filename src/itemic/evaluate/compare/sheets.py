"""A comparison as sheets of written cells, which every format lays out in its own way; knows no format."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from itemic.core.page.formats import (
    write_count,
    write_duration,
    write_metric,
    write_number,
    write_p_value,
    write_percent,
    write_quantity,
    write_signed,
)
from itemic.evaluate.compare.records import ComparisonTable, Difference, Estimate, PublishedCheck, TableRow

__all__ = ["Cell", "Sheet", "describe", "describe_protocol", "verdicts"]

_PLACES = {"within": "∈", "above": "↑", "below": "↓"}
_HEADS = {
    "users_per_s": "users/s",
    "num_parameters": "parameters",
    "fit_s": "training",
    "fit_cpu_s": "training, CPU",
    "latency_p50_ms": "ms, median",
    "latency_p95_ms": "ms, 95th",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure, written for a reader."""

    text: str
    marks: str = ""
    """Signs after it, that a note below the sheet explains."""
    is_best: bool = False


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table of words."""

    key: str
    """Short name, an anchor say."""
    title: str
    columns: tuple[str, ...]
    """Heads; the first is of the rows' names."""
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    """How to read it."""
    left: tuple[int, ...] = (0,)
    """Columns of words, which begin at the left."""


_END = Sheet(key="", title="", columns=(), rows=(), notes=())


def describe(table: ComparisonTable, *, beyond: bool = True, narrow: bool = False) -> tuple[Sheet, ...]:
    """Returns the sheets of a comparison: results, differences, what else was measured, published figures.

    A sheet that would be empty is left out.

    Args:
        table: The comparison.
        beyond: Whether coverage, speed and cost are shown.
        narrow: Whether each metric has sheets of its own, and a published figure one cell of words, for where there is
            little room.
    """
    parts = [replace(table, metrics=(label,)) for label in table.metrics] if narrow else [table]
    sheets = [_results(part) for part in parts]
    if len(table.rows) > 1:
        sheets += [_differences(part) for part in parts]
    if narrow:
        labels = [one.columns[1].removeprefix("Δ ") for one in sheets]
        sheets = [replace(one, title=f"{one.title}, {label}") for one, label in zip(sheets, labels, strict=True)]
        sheets = [replace(one, notes=()) if one.key == after.key else one for one, after in pairwise([*sheets, _END])]
    if beyond and table.beyond:
        sheets.append(_beyond(table))
    if any(row.published for row in table.rows):
        sheets.append(_published(table, narrow=narrow))
    return tuple(sheets)


def describe_protocol(table: ComparisonTable) -> str:
    """Returns how the figures were made, in a sentence."""
    protocol = table.protocol
    seen = "seen items left out" if protocol.get("exclude_history") else "seen items may come again"
    return (
        f"{write_count(protocol['num_examples'])} {protocol['split']} examples, each ranked against all "
        f"{write_count(protocol['num_candidates'])} items ({seen})"
    )


def verdicts(table: ComparisonTable) -> tuple[str, ...]:
    """Returns for each metric which rows the best one is significantly above, in words."""
    if len(table.rows) < 2:
        return ()
    return tuple(_verdict(table, label) for label in table.metrics)


def _verdict(table: ComparisonTable, label: str) -> str:
    best = next(row.name for row in table.rows if row.estimates[label].to_best is None)
    below = [row.name for row in table.rows if _is(row.estimates[label].to_best, "below")]
    level = [row.name for row in table.rows if _is(row.estimates[label].to_best, "unclear")]
    if not level:
        return f"{label}: {best} is significantly above {'every other row' if len(below) > 1 else below[0]}."
    if not below:
        return f"{label}: {best} is the highest, but significantly above no row."
    return f"{label}: {best} is significantly above {', '.join(below)}, but not above {', '.join(level)}."


def _is(difference: Difference | None, verdict: str) -> bool:
    return difference is not None and difference.verdict == verdict


def _results(table: ComparisonTable) -> Sheet:
    has_seeds = any(len(row.seeds) > 1 for row in table.rows)
    columns, rows = ["Recommender"], [[Cell(text=row.name)] for row in table.rows]
    for label in table.metrics:
        estimates = [row.estimates[label] for row in table.rows]
        _add(columns, rows, label, [_value_cell(one) for one in estimates])
        intervals = [f"[{write_metric(one.low)}, {write_metric(one.high)}]" for one in estimates]
        _add(columns, rows, f"{table.confidence:.0%}", [Cell(text=text) for text in intervals])
        if has_seeds:
            _add(columns, rows, "seeds", [Cell(text=_write_spread(one)) for one in estimates])
        checks = [next((one for one in row.published if one.metric == label), None) for row in table.rows]
        if any(checks):
            _add(columns, rows, "published", [_check_cell(one) for one in checks])
    return Sheet(
        key="results",
        title="Results",
        columns=tuple(columns),
        rows=tuple(map(tuple, rows)),
        notes=(
            f"Bold: the best of its column; †: not significantly below it (corrected p ≥ {table.alpha:g}); a row "
            "without either is significantly below.",
            f"Intervals: {table.num_resamples:,} bootstrap resamples of users"
            + (
                " of the mean over seeds; ± is the standard deviation of the seeds, which no interval knows of."
                if has_seeds
                else "."
            ),
            *_legend(any(row.published for row in table.rows)),
            *(_capital(note) for note in table.notes),
        ),
    )


def _legend(has_published: bool) -> list[str]:
    words = "Published: ∈ lies inside the row's interval, ↑ the row lies above it, ↓ the row lies below it."
    return [words] if has_published else []


def _value_cell(estimate: Estimate) -> Cell:
    mark = "†" if _is(estimate.to_best, "unclear") else ""
    return Cell(text=write_metric(estimate.value), marks=mark, is_best=estimate.is_best)


def _write_spread(estimate: Estimate) -> str:
    return "1" if estimate.spread is None else f"{len(estimate.by_seed)}, ±{write_metric(estimate.spread)}"


def _check_cell(check: PublishedCheck | None) -> Cell:
    return Cell(text="–") if check is None else Cell(text=write_metric(check.value), marks=_PLACES[check.place])


def _differences(table: ComparisonTable) -> Sheet:
    others = [row for row in table.rows if row.name != table.reference]
    columns, rows = ["Recommender"], [[Cell(text=row.name)] for row in others]
    for label in table.metrics:
        found = [row.estimates[label].to_reference for row in others]
        _add(columns, rows, f"Δ {label}", [_difference_cell(one) for one in found])
        _add(columns, rows, f"{table.confidence:.0%}", [Cell(text=_write_interval(one)) for one in found])
        _add(columns, rows, "p", [Cell(text=_write_p(one, corrected=False)) for one in found])
        _add(columns, rows, "p, Holm", [Cell(text=_write_p(one, corrected=True)) for one in found])
    return Sheet(
        key="differences",
        title=f"Differences from {table.reference}",
        columns=tuple(columns),
        rows=tuple(map(tuple, rows)),
        notes=(
            "Paired on the same examples: interval over users, p of a permutation test that swaps users, corrected by "
            f"Holm's method for the {len(others)} {'rows' if len(others) > 1 else 'row'} of each metric.",
            "* ** ***: corrected p below 0.05, 0.01, 0.001.",
        ),
    )


def _difference_cell(difference: Difference | None) -> Cell:
    assert difference is not None, "only the reference has no difference from itself"
    stars = sum(difference.adjusted_p_value < bound for bound in (0.05, 0.01, 0.001))
    return Cell(text=write_signed(difference.value), marks="*" * stars)


def _write_interval(difference: Difference | None) -> str:
    return "" if difference is None else f"[{write_signed(difference.low)}, {write_signed(difference.high)}]"


def _write_p(difference: Difference | None, *, corrected: bool) -> str:
    if difference is None:
        return ""
    return write_p_value(difference.adjusted_p_value if corrected else difference.p_value)


def _beyond(table: ComparisonTable) -> Sheet:
    columns, rows = ["Recommender"], [[Cell(text=row.name)] for row in table.rows]
    for name in table.beyond:
        _add(columns, rows, _HEADS.get(name, name), [Cell(text=_write_beyond(name, row)) for row in table.rows])
    if any(row.dtype for row in table.rows):
        _add(columns, rows, "dtype", [Cell(text=row.dtype or "–") for row in table.rows])
    return Sheet(
        key="beyond",
        title="Beyond accuracy",
        columns=tuple(columns),
        rows=tuple(map(tuple, rows)),
        notes=("Times and speeds are of the machine that each run was made on; means over the seeds.",),
    )


def _write_beyond(name: str, row: TableRow) -> str:
    value = row.beyond.get(name)
    kind = name.partition("@")[0]
    if value is None:
        return "–"
    if kind in ("Coverage", "Invalid"):
        return write_percent(value)
    if name == "num_parameters":
        return write_quantity(round(value))
    if name in ("fit_s", "fit_cpu_s"):
        return write_duration(value)
    if kind in ("Gini", "Diversity"):
        return f"{value:.3f}"
    if kind in ("HR", "NDCG", "MRR", "Recall"):
        return write_metric(value)
    return f"{value:.2f}" if kind == "Novelty" else write_number(value)


def _published(table: ComparisonTable, *, narrow: bool) -> Sheet:
    rows = [
        (
            row.name,
            *(() if narrow else (row.published_as,)),
            check.metric,
            write_metric(row.estimates[check.metric].value),
            check,
            *((f"{row.published_as}, {check.kind}: {check.source}",) if narrow else (check.kind, check.source)),
        )
        for row in table.rows
        for check in row.published
    ]
    notes = [f"{row.published_as}, {one.source}: {one.note}" for row in table.rows for one in row.published if one.note]
    return Sheet(
        key="published",
        title="Published figures",
        columns=("Recommender", "metric", "here", "published", "source")
        if narrow
        else ("Recommender", "method", "metric", "here", "published", "kind", "source"),
        rows=tuple(tuple(Cell(text=one) if isinstance(one, str) else _check_cell(one) for one in row) for row in rows),
        notes=(*_legend(True), *dict.fromkeys(notes)),
        left=(0, 1, 4) if narrow else (0, 1, 2, 5, 6),
    )


def _add(columns: list[str], rows: Sequence[list[Cell]], head: str, cells: Sequence[Cell]) -> None:
    columns.append(head)
    for row, cell in zip(rows, cells, strict=True):
        row.append(cell)


def _capital(text: str) -> str:
    sentence = text[0].upper() + text[1:]
    return sentence if sentence.endswith(".") else f"{sentence}."
