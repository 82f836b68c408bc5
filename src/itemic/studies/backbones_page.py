"""Words, table and chart of a screening; trains and judges nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from itemic.core.page.formats import write_duration, write_interval, write_metric, write_quantity
from itemic.core.page.page import Fact
from itemic.evaluate.report.figures import Cell, Figure, Line, Table, View, line_chart, palette
from itemic.studies.page import Finding, Section, StudyPage

if TYPE_CHECKING:
    from itemic.studies.backbones import BackbonesConfig

__all__ = ["CandidateRow", "Rung", "describe_backbones"]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What a candidate came to at one budget."""

    num_steps: int
    score: float
    """Between 0 and 1, among the candidates that were at this budget."""
    figures: Mapping[str, float]
    """Loss of each task in nats a code, and NDCG@10."""
    num_parameters: int
    cpu_s: float
    """Processor seconds, loading and judging included."""


@dataclass(kw_only=True)
class CandidateRow:
    """All that is known of a candidate; grows while the study runs."""

    name: str
    rungs: list[Rung] = field(default_factory=list)
    final: tuple[float, float, float] | None = None
    """NDCG@10 on valid after the recipe's own training, and its interval; None where it was not among the last."""
    final_cpu_s: float | None = None
    error: str = ""
    """Why it is out, where it failed."""

    def add(self, rung: Rung) -> None:
        """Enters a budget."""
        self.rungs.append(rung)

    @property
    def standing(self) -> tuple[float, int, float]:
        """Sorts candidates: the last training's figure, then how far one came, then the score there."""
        return (self.final[0] if self.final else -1.0, len(self.rungs), self.rungs[-1].score if self.rungs else -1.0)

    def as_mapping(self) -> dict[str, Any]:
        """Returns the row as plain values."""
        return asdict(self)


def describe_backbones(config: "BackbonesConfig", rows: Sequence[CandidateRow]) -> StudyPage:
    """Returns the page of a study.

    Args:
        config: What was asked for.
        rows: The candidates, the best first.
    """
    cpu_s = sum(rung.cpu_s for row in rows for rung in row.rungs) + sum(row.final_cpu_s or 0.0 for row in rows)
    findings = [Finding(level="warning", text=f"{row.name} is out: {row.error}") for row in rows if row.error]
    text = "One seed: candidates whose scores are near each other may change places under another."
    findings.append(Finding(level="note", text=text))
    sections = [_scores(config, rows)] if any(row.rungs for row in rows) else []
    return StudyPage(
        title=f"{config.recipe.stem}: {len(rows)} backbones",
        kind="Backbone screening",
        verdict=_verdict(rows),
        facts=(
            Fact(label="Candidates", value=str(len(rows))),
            Fact(label="Budgets", value=str(config.rungs), note=f"from {config.budget_steps} steps, doubled each time"),
            Fact(label="Processor time", value=write_duration(cpu_s)),
            Fact(label="Failed", value=str(sum(bool(row.error) for row in rows))),
        ),
        findings=tuple(findings),
        sections=(*sections, _figures(config, rows)),
    )


def _verdict(rows: Sequence[CandidateRow]) -> str:
    best = rows[0]
    if best.final is None:
        return "No candidate came through the last training."
    return f"{best.name} is best after the recipe's own training: NDCG@10 {best.final[0]:.4f} on valid."


def _scores(config: "BackbonesConfig", rows: Sequence[CandidateRow]) -> Section:
    styles = palette([row.name for row in rows], rows[0].name)
    lines = [
        Line(
            name=row.name,
            x=[rung.num_steps for rung in row.rungs],
            y=[rung.score for rung in row.rungs],
            style=styles[row.name],
            markers=True,
        )
        for row in rows
        if row.rungs
    ]
    spec = line_chart(lines, x_title="optimiser steps", y_title="score", log_x=True)
    caption = "A line ends where its candidate was left behind; scores are among those at the same budget."
    lead = (
        "The score is the share of other candidates that one beats, averaged over its figures: the loss of each task "
        f"({', '.join(config.tasks)}) and NDCG@10 of next_item. After each budget the best {config.keep:.0%} go on "
        "from where they stand; a candidate without words is judged by next_item alone."
    )
    figure = Figure(key="scores", title="Score against budget", caption=caption, views=(View(label="", spec=spec),))
    columns = ("Candidate", "parameters", "steps", "score", "NDCG@10 on valid", "interval", "processor time")
    table = Table(columns=columns, rows=tuple(_cells(row) for row in rows))
    return Section(key="scores-of-all", title="Candidates", lead=lead, figures=(figure,), table=table)


def _cells(row: CandidateRow) -> tuple[Cell, ...]:
    if not row.rungs:
        return (row.name, "", "", "failed", "", "", "")
    last = row.rungs[-1]
    final = ("", "") if row.final is None else (write_metric(row.final[0]), write_interval(*row.final[1:]))
    cpu_s = sum(rung.cpu_s for rung in row.rungs) + (row.final_cpu_s or 0.0)
    cells = (row.name, write_quantity(last.num_parameters), str(last.num_steps), f"{last.score:.2f}")
    return (*cells, *final, write_duration(cpu_s))


def _figures(config: "BackbonesConfig", rows: Sequence[CandidateRow]) -> Section:
    names = list(dict.fromkeys(name for row in rows for rung in row.rungs for name in rung.figures))
    cells = tuple(
        (
            row.name,
            str(rung.num_steps),
            *("" if name not in rung.figures else write_metric(rung.figures[name]) for name in names),
        )
        for row in rows
        for rung in row.rungs
    )
    lead = (
        "Losses in nats a code, which compare across tokenizers because every answer is a semantic ID. Tasks of "
        "histories are judged on valid; those that ask for an item by its text on items of the catalogue, which they "
        "were taught: how fast it is learned by heart."
    )
    return Section(
        key="figures", title="Figures", lead=lead, table=Table(columns=("Candidate", "steps", *names), rows=cells)
    )
