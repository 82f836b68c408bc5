"""Words, tables and charts of a transfer; runs and compares nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from itemic.core.page.formats import write_duration, write_interval, write_metric, write_p_value, write_signed
from itemic.core.page.page import Fact
from itemic.evaluate.report.figures import Cell, Figure, Table, View, interval_bars
from itemic.evaluate.significance import PairedDifference
from itemic.studies.page import Finding, Section, StudyPage
from itemic.studies.values import Mean

if TYPE_CHECKING:
    from itemic.studies.transfer_config import TransferConfig

__all__ = ["TransferRow", "describe_transfer"]

_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class TransferRow:
    """What came of a reference or a mode."""

    name: str
    is_mode: bool
    """Whether it carries a model over; a reference is fitted to the target."""
    mean: Mean | None
    """None where a run failed."""
    difference: PairedDifference | None
    """To the reference that is compared with; None for references."""
    corrected: float | None
    """The difference's p-value, corrected for the number of modes by Holm's method."""
    error: str
    """Of the first run that failed."""

    def as_mapping(self) -> dict[str, Any]:
        """Returns the row as plain values."""
        return asdict(self)


def describe_transfer(
    config: "TransferConfig",
    tables: Mapping[str, Sequence[TransferRow]],
    modes: Mapping[str, str],
    failed: Sequence[str],
    wall_time_s: float,
) -> StudyPage:
    """Returns the page of a study.

    Args:
        config: What was asked for.
        tables: Rows of each direction.
        modes: What each mode means.
        failed: Runs that failed, with their errors.
        wall_time_s: Of all runs together.
    """
    findings = [Finding(level="warning", text=text) for text in failed]
    if len(config.seeds) == 1:
        text = "One seed: how much another seed would change is not known, and intervals over users do not hold it."
        findings.append(Finding(level="note", text=text))
    return StudyPage(
        title=" and ".join(tables),
        kind="Transfer",
        verdict=" ".join(_verdict(name, rows, config) for name, rows in tables.items()),
        facts=(
            Fact(label="Modes", value=str(len(config.modes)), note=", ".join(config.modes)),
            Fact(label="Seeds", value=str(len(config.seeds)), note=", ".join(map(str, config.seeds))),
            Fact(label="Time of all runs", value=write_duration(wall_time_s)),
            Fact(label="Failed", value=str(len(failed))),
        ),
        findings=tuple(findings),
        sections=(
            *(_section(place, name, rows, config) for place, (name, rows) in enumerate(tables.items())),
            _meanings(config, modes),
        ),
    )


def _verdict(direction: str, rows: Sequence[TransferRow], config: "TransferConfig") -> str:
    found = [row for row in rows if row.is_mode and row.mean is not None]
    if not found:
        return f"{direction}: every mode failed."
    best = max(found, key=lambda row: row.mean.value if row.mean else 0.0)
    assert best.mean is not None
    text = f"{direction}: {best.name} is best of the modes with {config.metric} {best.mean.value:.4f}"
    if best.difference is None or best.corrected is None:
        return f"{text}; {config.against} is not there to compare with."
    sure = "beyond chance" if best.corrected < _LEVEL else "not beyond chance"
    return f"{text}, {write_signed(best.difference.value)} to {config.against}, {sure}."


def _section(place: int, direction: str, rows: Sequence[TransferRow], config: "TransferConfig") -> Section:
    lead = (
        f"{config.metric} on {config.split} of the target, mean over {len(config.seeds)} seed"
        f"{'s' * (len(config.seeds) > 1)}. Intervals ({config.confidence:.0%}) resample users. Differences are to "
        f"{config.against}, paired, example by example; p is of a permutation test over users, corrected is Holm's. "
        "The references are fitted to the target's own training part, where they learn."
    )
    columns = ("Row", config.metric, "interval", "spread", "difference", "its interval", "p", "corrected")
    figures = (_figure(f"transfer-{place}", rows, config.metric),) if any(row.mean for row in rows) else ()
    table = Table(columns=columns, rows=tuple(_cells(row) for row in rows))
    return Section(key=f"direction-{place}", title=direction, lead=lead, figures=figures, table=table)


def _meanings(config: "TransferConfig", modes: Mapping[str, str]) -> Section:
    table = Table(columns=("Mode", "meaning"), rows=tuple((mode, modes[mode]) for mode in config.modes))
    lead = "Encoder, tokenization and model are the source's; protocol, decoding and trainings there the target's."
    return Section(key="modes", title="What the modes are", lead=lead, table=table)


def _cells(row: TransferRow) -> tuple[Cell, ...]:
    name = row.name if row.is_mode else f"{row.name} (reference)"
    if row.mean is None:
        return (name, "failed", "", "", "", "", "", "")
    cells = (name, write_metric(row.mean.value), write_interval(row.mean.low, row.mean.high))
    spread = "" if row.mean.spread is None else write_metric(row.mean.spread)
    if row.difference is None:
        return (*cells, spread, "", "", "", "")
    ends = f"{write_signed(row.difference.low)} to {write_signed(row.difference.high)}"
    values = (write_signed(row.difference.value), ends, write_p_value(row.difference.p_value))
    return (*cells, spread, *values, write_p_value(row.corrected))


def _figure(key: str, rows: Sequence[TransferRow], metric: str) -> Figure:
    shown = [(row.name, row.mean) for row in rows if row.mean is not None]
    values, lows, highs = ([getattr(mean, name) for _, mean in shown] for name in ("value", "low", "high"))
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": "mean",
        "y": [name for name, _ in shown],
        "x": values,
        "error_x": interval_bars(values, lows, highs, "var(--focus)"),
        "marker": {"color": "var(--focus)", "size": 9},
        "hovertemplate": "%{y}<br>%{x:.4f}<extra></extra>",
    }
    layout = {
        "xaxis": {"title": {"text": metric}, "automargin": True, "rangemode": "tozero"},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
        "showlegend": False,
    }
    caption = "Means with their intervals over users; references above, modes below."
    spec = {"data": [trace], "layout": layout}
    return Figure(
        key=key, title=metric, caption=caption, views=(View(label="", spec=spec),), height_px=120 + 34 * len(shown)
    )
