"""Words, table and chart of an ablation; runs and compares nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from itemic.core.page.formats import write_duration, write_interval, write_metric, write_p_value, write_signed
from itemic.core.page.page import Fact
from itemic.evaluate.report.figures import Cell, Figure, Spec, Table, View, interval_bars
from itemic.evaluate.significance import PairedDifference
from itemic.studies.page import Finding, Section, StudyPage
from itemic.studies.values import Mean

if TYPE_CHECKING:
    from itemic.studies.ablation import AblationConfig

__all__ = ["AblationRow", "describe_ablation"]

_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """What came of one variant."""

    name: str
    """``base``, or the changes."""
    changes: Mapping[str, Any]
    mean: Mean | None
    """None where a run failed."""
    difference: PairedDifference | None
    """To the base; None for the base, where a run failed, and where the examples are others."""
    corrected: float | None
    """The difference's p-value, corrected for the number of variants by Holm's method."""
    error: str
    """Of the first run that failed."""
    also: tuple[str, ...] = ()
    """Names of further changes that give the same recipe and so have no row of their own."""

    def as_mapping(self) -> dict[str, Any]:
        """Returns the row as plain values."""
        return asdict(self)


def describe_ablation(
    rows: Sequence[AblationRow],
    tested: Sequence[AblationRow],
    best: AblationRow | None,
    config: "AblationConfig",
    wall_time_s: float,
) -> StudyPage:
    """Returns the page of a study.

    Args:
        rows: The base, then its variants.
        tested: The base and the best variant on test, where that was asked for.
        best: The row of the highest mean.
        config: What was asked for.
        wall_time_s: Of all runs together.
    """
    sections = [
        Section(
            key="variants",
            title=f"{config.metric} on {config.split}",
            lead=_lead(config),
            figures=(_means_figure(rows, config.metric),) if any(row.mean for row in rows) else (),
            table=_table(rows, config.metric),
        )
    ]
    if any(row.difference for row in rows):
        figure = _differences_figure(rows, config.metric)
        words = "Points right of the line are better than the base. Intervals are over users, not corrected."
        sections.append(Section(key="differences", title="Difference to the base", lead=words, figures=(figure,)))
    if tested:
        words = "Chosen on valid, evaluated on test once: the only comparison made there, so nothing to correct for."
        sections.append(Section(key="test", title="The best on test", lead=words, table=_table(tested, config.metric)))
    num_failed = sum(bool(row.error) for row in rows)
    return StudyPage(
        title=f"{config.recipe.stem}: {', '.join(config.vary)}",
        kind="Ablation",
        verdict=_verdict(rows, best, config),
        facts=(
            Fact(label="Variants", value=str(len(rows)), note="the base included"),
            Fact(label="Seeds", value=str(len(config.seeds)), note=", ".join(map(str, config.seeds))),
            Fact(label="Time of all runs", value=write_duration(wall_time_s)),
            Fact(label="Failed", value=str(num_failed)),
        ),
        findings=tuple(_findings(rows, config)),
        sections=tuple(sections),
    )


def _lead(config: "AblationConfig") -> str:
    how = "every value with every other" if config.grid else "one key at a time differs from the base"
    return (
        f"Mean over {len(config.seeds)} seed{'s' * (len(config.seeds) > 1)} and all {config.split} examples; {how}. "
        f"Intervals ({config.confidence:.0%}) resample users; the spread is the standard deviation between seeds. "
        "p is of a paired permutation test over users, corrected is Holm's."
    )


def _verdict(rows: Sequence[AblationRow], best: AblationRow | None, config: "AblationConfig") -> str:
    if best is None or best.mean is None:
        return "Every run failed."
    if rows[0].mean is None:
        return f"The base failed; the best of the rest is {best.name} with {config.metric} {best.mean.value:.4f}."
    better = [row for row in rows if row.difference and row.difference.value > 0 and (row.corrected or 0) < _LEVEL]
    if better:
        top = max(better, key=lambda row: row.difference.value if row.difference else 0.0)
        assert top.difference is not None
        gain = write_signed(top.difference.value)
        num_compared = sum(row.difference is not None for row in rows)
        return f"{top.name} beats the base by {gain} {config.metric} on {config.split}, corrected for {num_compared}."
    return f"No variant beats the base ({config.metric} {rows[0].mean.value:.4f}) beyond chance."


def _findings(rows: Sequence[AblationRow], config: "AblationConfig") -> list[Finding]:
    found = [Finding(level="warning", text=f"{row.name} failed: {row.error}") for row in rows if row.error]
    for row in rows:
        text = f"The same recipe as {row.name}, and so without a row of its own: {'; '.join(row.also)}."
        found += [Finding(level="note", text=text)] if row.also else []
    unpaired = [row.name for row in rows[1:] if row.mean and not row.difference]
    if unpaired and rows[0].mean:
        text = f"Not compared with the base, for their examples are others: {'; '.join(unpaired)}."
        found.append(Finding(level="note", text=text))
    if len(config.seeds) == 1:
        text = "One seed: how much another seed would change is not known, and intervals over users do not hold it."
        found.append(Finding(level="note", text=text))
    return found


def _table(rows: Sequence[AblationRow], metric: str) -> Table:
    columns = ("Variant", metric, "interval", "spread", "difference", "its interval", "p", "corrected")
    return Table(columns=columns, rows=tuple(_cells(row) for row in rows))


def _cells(row: AblationRow) -> tuple[Cell, ...]:
    if row.mean is None:
        return (row.name, "failed", "", "", "", "", "", "")
    mean, difference = row.mean, row.difference
    cells = (row.name, write_metric(mean.value), write_interval(mean.low, mean.high), write_metric(mean.spread))
    if difference is None:
        return (*cells, "", "", "", "")
    ends = f"{write_signed(difference.low)} to {write_signed(difference.high)}"
    return (
        *cells,
        write_signed(difference.value),
        ends,
        write_p_value(difference.p_value),
        write_p_value(row.corrected),
    )


def _means_figure(rows: Sequence[AblationRow], metric: str) -> Figure:
    shown = [(row.name, row.mean) for row in rows if row.mean is not None]
    names = [name for name, _ in shown]
    values, lows, highs = ([getattr(mean, key) for _, mean in shown] for key in ("value", "low", "high"))
    seeds = [(name, value) for name, mean in shown for value in mean.by_seed]
    spec = _points(names, values, lows, highs, metric)
    spec["data"].append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "one seed",
            "y": [name for name, _ in seeds],
            "x": [value for _, value in seeds],
            "marker": {"color": "var(--series-1)", "symbol": "line-ns-open", "size": 12},
            "hovertemplate": "%{x:.4f}<extra>one seed</extra>",
        }
    )
    caption = "Points are means with their intervals over users; strokes are single seeds."
    return _figure("means", metric, caption, spec, len(names))


def _differences_figure(rows: Sequence[AblationRow], metric: str) -> Figure:
    shown = [(row.name, row.difference) for row in rows if row.difference is not None]
    values, lows, highs = ([getattr(one, key) for _, one in shown] for key in ("value", "low", "high"))
    spec = _points([name for name, _ in shown], values, lows, highs, f"{metric} over the base")
    spec["layout"]["shapes"] = [
        {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": "var(--muted)"}}
    ]
    return _figure("gains", "Difference to the base", "Paired, example by example.", spec, len(shown))


def _points(
    names: Sequence[str], values: Sequence[float], lows: Sequence[float], highs: Sequence[float], x_title: str
) -> Spec:
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": "mean",
        "y": list(names),
        "x": list(values),
        "error_x": interval_bars(values, lows, highs, "var(--focus)"),
        "marker": {"color": "var(--focus)", "size": 9},
        "hovertemplate": "%{y}<br>%{x:.4f}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": x_title}, "automargin": True},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
        "showlegend": False,
    }
    return {"data": [trace], "layout": layout}


def _figure(key: str, title: str, caption: str, spec: Spec, num_rows: int) -> Figure:
    return Figure(
        key=key, title=title, caption=caption, views=(View(label="", spec=spec),), height_px=120 + 34 * num_rows
    )
