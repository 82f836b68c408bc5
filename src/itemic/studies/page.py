"""What a study leaves for readers: ``report.html``, one page that opens offline, and ``report.md``; knows no study.

A study describes itself as a ``StudyPage``: words, tables and charts. Here they are laid out, in HTML and in Markdown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from itemic.core.files import atomic_path
from itemic.core.page.page import Fact, fill_page, read_asset
from itemic.evaluate.report.figures import Cell, Figure, Table
from itemic.evaluate.report.page import figure_views, packed_plotly

__all__ = ["Finding", "Section", "StudyPage", "render_html", "render_markdown", "write_study"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a reader should know before the figures."""

    level: Literal["good", "note", "warning"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """Part of a study's page."""

    key: str
    """Anchor in the page, unique there."""
    title: str
    lead: str
    """How to read what follows, in a few sentences."""
    figures: tuple[Figure, ...] = ()
    table: Table | None = None


@dataclass(frozen=True, kw_only=True)
class StudyPage:
    """All that a study has to say."""

    title: str
    kind: str
    """Kind of study, as a reader calls it: ``Ablation``."""
    verdict: str
    """What came out, in a sentence or two."""
    facts: tuple[Fact, ...] = ()
    findings: tuple[Finding, ...] = ()
    sections: tuple[Section, ...] = field(default_factory=tuple)


def write_study(folder: Path, page: StudyPage) -> None:
    """Writes ``report.html`` and ``report.md`` into the study's folder."""
    for name, text in (("report.html", render_html(page)), ("report.md", render_markdown(page))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def render_html(page: StudyPage) -> str:
    """Returns the page's HTML; it loads nothing."""
    script = read_asset("itemic.evaluate.report", "page.js")
    values = {"page": page, "script": script, "plotly": packed_plotly()}
    return fill_page(__package__, values, filters={"views": figure_views})


def render_markdown(page: StudyPage) -> str:
    """Returns the page as Markdown: words and tables, the charts being in the HTML."""
    lines = [f"# {page.title}", "", page.verdict, ""]
    lines += [f"- {fact.label}: {fact.value}" + (f" ({fact.note})" if fact.note else "") for fact in page.facts]
    lines += [f"- **{finding.level.capitalize()}.** {finding.text}" for finding in page.findings]
    for section in page.sections:
        lines += ["", f"## {section.title}", "", section.lead]
        if section.table is not None:
            lines += ["", *_pipe_table(section.table)]
    return "\n".join(lines).rstrip() + "\n"


def _pipe_table(table: Table) -> list[str]:
    head = _pipe_row(table.columns)
    rule = _pipe_row(["---", *["---:"] * (len(table.columns) - 1)])
    return [head, rule, *(_pipe_row(row) for row in table.rows)]


def _pipe_row(cells: Sequence[Cell]) -> str:
    texts = ["" if cell is None else " ".join(str(cell).split()).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(texts)} |"
