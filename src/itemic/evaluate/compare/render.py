"""A comparison in the formats it can be written in; pure functions of the table."""

import json
import re
from dataclasses import asdict, replace
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from itemic.core.errors import ConfigError
from itemic.evaluate.compare.page import render_html
from itemic.evaluate.compare.records import ComparisonTable
from itemic.evaluate.compare.sheets import Cell, Sheet, describe, describe_protocol, verdicts

__all__ = ["FORMATS", "Format", "render", "render_json", "render_latex", "render_markdown", "render_terminal"]

Format = Literal["terminal", "markdown", "latex", "html", "json"]
FORMATS: tuple[Format, ...] = ("terminal", "markdown", "latex", "html", "json")

_NAME_WIDTH = 20
"""Columns of the terminal that names and other words get at the least, where they are as long."""
_RULES = 3
"""Columns between two columns of a table."""
_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "−": "$-$",
    "–": "--",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "≥": r"$\geq$",
    "†": r"$^{\dagger}$",
    "∈": r"$\in$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def render(table: ComparisonTable, layout: str, *, beyond: bool = True) -> str:
    """Returns the comparison written in one of ``FORMATS``; ``beyond`` says whether speed and cost are shown.

    Raises:
        ConfigError: if there is no such format.
    """
    if layout == "json":
        return render_json(table)
    if layout == "markdown":
        return render_markdown(table, beyond=beyond)
    if layout == "latex":
        return render_latex(table, beyond=beyond)
    if layout == "html":
        return render_html(table, beyond=beyond)
    if layout == "terminal":
        return render_terminal(table, beyond=beyond)
    raise ConfigError(f"format {layout!r}: expected one of {', '.join(FORMATS)}")


def render_json(table: ComparisonTable) -> str:
    """Returns every field of the records, unrounded."""
    return json.dumps({**asdict(table), "verdicts": verdicts(table)}, indent=2, ensure_ascii=False) + "\n"


def render_markdown(table: ComparisonTable, *, beyond: bool = True) -> str:
    """Returns the sheets as Markdown tables with their notes."""
    parts = [f"{describe_protocol(table)}.", *verdicts(table)]
    for sheet in describe(table, beyond=beyond):
        lines = [_markdown_row([_markdown(head) for head in sheet.columns])]
        lines.append(_markdown_row(["---" if at in sheet.left else "---:" for at in range(len(sheet.columns))]))
        lines += [_markdown_row([_markdown_cell(cell) for cell in row]) for row in sheet.rows]
        parts += [f"### {_markdown(sheet.title)}", "\n".join(lines), *map(_markdown, sheet.notes)]
    return "\n\n".join(parts) + "\n"


def render_latex(table: ComparisonTable, *, beyond: bool = True) -> str:
    """Returns the sheets as LaTeX tables of the package ``booktabs``, notes below."""
    return "\n".join(_latex_table(table, sheet) for sheet in describe(table, beyond=beyond))


def render_terminal(table: ComparisonTable, *, beyond: bool = True, width: int = 120, colour: bool = False) -> str:
    """Returns the sheets as text of at most so many columns."""
    console = Console(width=width, force_terminal=colour, no_color=not colour, highlight=False)
    with console.capture() as captured:
        for sheet in describe(table, beyond=beyond, narrow=True):
            for part in _fitting(sheet, width):
                console.print(_rich_table(part))
            for note in sheet.notes:
                console.print(Text(note, style="dim"))
        console.print()
        for verdict in verdicts(table):
            console.print(Text(verdict, style="bold"))
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_<`])", r"\\\1", text)


def _markdown_cell(cell: Cell) -> str:
    text = _markdown(cell.text)
    marks = f" {_markdown(cell.marks)}" if cell.marks else ""
    return (f"**{text}**" if cell.is_best else text) + marks


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _latex_table(table: ComparisonTable, sheet: Sheet) -> str:
    body = [_latex_row([_latex_cell(cell) for cell in row]) for row in sheet.rows]
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        f"\\caption{{{_latex(sheet.title)}: {_latex(describe_protocol(table))}.}}",
        f"\\begin{{tabular}}{{{''.join('l' if at in sheet.left else 'r' for at in range(len(sheet.columns)))}}}",
        r"\toprule",
        _latex_row([_latex(head) for head in sheet.columns]),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\footnotesize " + " ".join(map(_latex, sheet.notes)),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _latex_cell(cell: Cell) -> str:
    text = f"\\textbf{{{_latex(cell.text)}}}" if cell.is_best else _latex(cell.text)
    if not cell.marks:
        return text
    return text + (f"$^{{{cell.marks}}}$" if set(cell.marks) == {"*"} else _latex(cell.marks))


def _fitting(sheet: Sheet, width: int) -> list[Sheet]:
    """Returns a sheet, its columns dealt out to several with the names of the rows where the names get too little room.

    Args:
        sheet: What is to be written.
        width: Columns of the terminal.
    """
    needed = [_column_width(sheet, at) for at in range(len(sheet.columns))]
    names_width = min(needed[0], _NAME_WIDTH)
    parts: list[list[int]] = [[]]
    for at in range(1, len(sheet.columns)):
        taken = names_width + sum(needed[one] for one in (*parts[-1], at))
        if parts[-1] and taken + _RULES * (len(parts[-1]) + 2) + 1 > width:
            parts.append([])
        parts[-1].append(at)
    return [
        replace(
            sheet,
            title=sheet.title if not place else f"{sheet.title}, continued",
            columns=tuple(sheet.columns[at] for at in (0, *part)),
            rows=tuple(tuple(row[at] for at in (0, *part)) for row in sheet.rows),
            left=tuple(place for place, at in enumerate((0, *part)) if at in sheet.left),
        )
        for place, part in enumerate(parts)
    ]


def _column_width(sheet: Sheet, at: int) -> int:
    """Returns how wide a column is at the least: words may be wrapped, figures not."""
    cells = [cell_len(_rich_cell(row[at]).plain) for row in sheet.rows]
    widest = max(cell_len(sheet.columns[at]), *cells)
    return min(widest, _NAME_WIDTH) if at in sheet.left[1:] else widest


def _rich_table(sheet: Sheet) -> Table:
    made: Any = Table(title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    made.add_column(sheet.columns[0], overflow="fold")
    for at, head in enumerate(sheet.columns[1:], start=1):
        is_words = at in sheet.left
        made.add_column(head, justify="left" if is_words else "right", overflow="fold", no_wrap=not is_words)
    for row in sheet.rows:
        made.add_row(*[_rich_cell(cell) for cell in row])
    table: Table = made
    return table


def _rich_cell(cell: Cell) -> Text:
    text = Text(cell.text, style="bold" if cell.is_best else "")
    return text.append(f" {cell.marks}" if cell.marks else "", style="not bold")
