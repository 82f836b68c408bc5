"""The metrics as a table for the terminal; knows ``metrics.json`` as a mapping, and no file."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from itemic.core.page.formats import write_count, write_metric, write_number, write_percent
from itemic.evaluate.report.focus import pick_cutoff, ranked_names

__all__ = ["metrics_table", "temperature_table"]

_WITH_INTERVAL = ("NDCG", "HR")
_NAME_WIDTH, _WORD_WIDTH = 12, 20
"""Columns of the terminal that names get at the least where they are as long, and up to which no word is broken."""


def metrics_table(metrics: Mapping[str, Any], cutoff: int | None = None, *, width: int = 80) -> Table:
    """Returns the recommenders with their metrics at one cut-off, the highest NDCG first, each column's best in bold.

    Long names are wrapped, and MRR, speed and coverage give way, in this order, where the names would get too little
    room: the report has what is left out here. Coverage has no best; the share of invalid slots is shown only where
    some recommender has any.

    Args:
        metrics: ``metrics.json``.
        cutoff: Cut-off of every metric; None takes 10 or, where that was not evaluated, the largest.
        width: Columns of the terminal.

    Raises:
        ArtifactError: if there is no recommender.
        ConfigError: if the cut-off was not evaluated.
    """
    cutoff = pick_cutoff(metrics, cutoff)
    names = ranked_names(metrics, cutoff)
    entries = [metrics["recommenders"][name] for name in names]
    scores = [entry["metrics"] for entry in entries]
    columns = {f"{name}@{cutoff}": _rank_cells(scores, f"{name}@{cutoff}") for name in ("NDCG", "HR", "MRR")}
    columns["Coverage"] = [Text(write_percent(one[f"Coverage@{cutoff}"]["value"])) for one in scores]
    if any(one[f"Invalid@{cutoff}"]["value"] for one in scores):
        columns["Invalid"] = [Text(write_percent(one[f"Invalid@{cutoff}"]["value"])) for one in scores]
    columns["users/s"] = [Text(write_number(entry.get("users_per_s"))) for entry in entries]
    table = Table(box=box.SIMPLE_HEAD, caption=_caption(metrics), caption_justify="left", caption_style="dim")
    for head in (f"MRR@{cutoff}", "users/s", "Coverage"):
        if _room_for_names(columns, width) < _least_width(names):
            del columns[head]
    table.add_column("Recommender", overflow="fold")
    for head in columns:
        table.add_column(head, justify="right", no_wrap=True)
    for name, cells in zip(names, zip(*columns.values(), strict=True), strict=True):
        table.add_row(Text(name), *cells)
    return table


def temperature_table(metrics: Mapping[str, Any]) -> Table | None:
    """Returns the recommenders with their figures for cold and for warm targets, None without the cold-start protocol.

    Args:
        metrics: ``metrics.json``.

    Raises:
        ArtifactError: if there is no recommender.
    """
    names = ranked_names(metrics, pick_cutoff(metrics, None))
    groups = [metrics["recommenders"][name]["breakdown"].get("target_temperature") for name in names]
    if not groups[0]:
        return None
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Recommender", overflow="fold")
    for group in groups[0]:
        for label in group["metrics"]:
            head = f"{label}\n{group['bucket']} ({write_count(group['num_examples'])})"
            table.add_column(head, justify="right", no_wrap=True)
    for name, of_name in zip(names, groups, strict=True):
        cells = [write_metric(one["value"]) for group in of_name for one in group["metrics"].values()]
        table.add_row(Text(name), *cells)
    return table


def _room_for_names(columns: Mapping[str, list[Text]], width: int) -> int:
    """Returns how many columns of the terminal are left for names; three lie around each column, and one at the end."""
    taken = sum(max(cell_len(head), *(cell.cell_len for cell in cells)) for head, cells in columns.items())
    return width - taken - 3 * (len(columns) + 1) - 1


def _least_width(names: Sequence[str]) -> int:
    words = [cell_len(word) for name in names for word in name.split()]
    return min(max(map(cell_len, names)), max(_NAME_WIDTH, min(_WORD_WIDTH, max(words))))


def _rank_cells(scores: list[Mapping[str, Any]], label: str) -> list[Text]:
    best = max(one[label]["value"] for one in scores)
    shows_interval = label.partition("@")[0] in _WITH_INTERVAL
    return [_rank_cell(one[label], best, shows_interval=shows_interval) for one in scores]


def _rank_cell(one: Mapping[str, Any], best: float, *, shows_interval: bool) -> Text:
    cell = Text()
    cell.append(write_metric(one["value"]), style="bold" if one["value"] == best else "")
    if shows_interval and one.get("low") is not None:
        half = max(one["high"] - one["value"], one["value"] - one["low"])
        cell.append(f" ±{half:.4f}".replace("±0.", "±."), style="dim")
    return cell


def _caption(metrics: Mapping[str, Any]) -> str:
    protocol = metrics["protocol"]
    words = f"{write_count(protocol['num_examples'])} {protocol['split']} examples, every one ranked against "
    words += f"{write_count(protocol['num_candidates'])} items"
    return f"{words}; ± is the wider half of the {protocol['confidence']:.0%} interval"
