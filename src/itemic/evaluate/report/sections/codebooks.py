"""What the report says of the semantic IDs: collisions, use of every code, error, and what the first codes mean."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from itemic.core.dataset import Dataset
from itemic.evaluate.report.artifacts import RunArtifacts
from itemic.evaluate.report.figures import Figure, Spec, Table, View, heat_strip, tree_map
from itemic.evaluate.report.formats import write_count, write_number, write_percent
from itemic.evaluate.report.sections.data_card import train_popularity
from itemic.evaluate.report.sections.parts import Fact, Missing
from itemic.language.spelling import Spelling
from itemic.sid.catalog import Catalog

__all__ = ["CodeGroup", "CodebookSection", "describe_codebooks", "distinct_prefixes"]

_NUM_GROUPS = 12
_NUM_TITLES = 5
_MAX_FIRST_CODES = 256
_MAX_SECOND_CODES = 12
_MAX_CELLS = 1024


@dataclass(frozen=True, kw_only=True)
class CodeGroup:
    """The items under one first code."""

    token: str
    num_items: int
    share: float
    """Of all items, relative to the largest group, for drawing."""
    share_text: str
    titles: tuple[str, ...]
    """The most popular ones."""


@dataclass(frozen=True, kw_only=True)
class CodebookSection:
    """The semantic IDs."""

    facts: tuple[Fact, ...]
    levels: Table
    """One row a level."""
    groups: tuple[CodeGroup, ...]
    """The largest first codes."""
    num_groups: int
    """First codes in use."""
    figures: tuple[Figure, ...]


def describe_codebooks(artifacts: RunArtifacts) -> CodebookSection | Missing:
    """Returns the section, or what is missing for it."""
    catalog, found = artifacts.catalog, artifacts.quality
    if catalog is None or found is None:
        return Missing.of("catalog/", "tokenize")
    groups: tuple[CodeGroup, ...] = ()
    figures = [_use_figure(catalog, found)]
    if artifacts.dataset is not None:
        popularity = train_popularity(artifacts.dataset)
        groups = tuple(_groups(catalog, artifacts.dataset, popularity))
        figures.append(_map_figure(catalog, artifacts.dataset, popularity))
    return CodebookSection(
        facts=tuple(_facts(catalog, found)),
        levels=_level_table(catalog, found),
        groups=groups,
        num_groups=len(np.unique(catalog.codes[:, 0])),
        figures=tuple(figures),
    )


def distinct_prefixes(codes: Int[np.ndarray, "N L"]) -> list[int]:
    """Returns how many different prefixes of 1, 2, ... L codes the items have."""
    return [len(np.unique(codes[:, :depth], axis=0)) for depth in range(1, codes.shape[1] + 1)]


def _facts(catalog: Catalog, found: Mapping[str, Any]) -> Iterator[Fact]:
    before, after = found["collisions"]["before"], found["collisions"]["after"]
    space = int(np.prod([float(size) for size in catalog.codebook_sizes]))
    sizes = " × ".join(map(str, catalog.codebook_sizes))
    used = f"{write_percent(catalog.num_items / space, 2)} of {space:,} possible"
    yield Fact(label="Codebooks", value=sizes, note=used)
    spread = f"at most {before['max_items']} items on one ID"
    yield Fact(label="Collision rate as coded", value=write_percent(before["rate"], 2), note=spread)
    kept = "items share IDs" if catalog.shares else "every ID is unique" if after["rate"] == 0 else ""
    yield Fact(label="Collision rate in the catalog", value=write_percent(after["rate"], 2), note=kept)
    yield Fact(label="Items moved to another ID", value=write_percent(found["share_moved"]), note="to make IDs unique")
    errors = found.get("reconstruction")
    if errors and errors["after"]["relative"] is not None:
        error = write_number(errors["after"]["mse"])
        note = f"{write_percent(errors['before']['relative'])} as coded; MSE {error} a dimension"
        yield Fact(label="Variance not explained", value=write_percent(errors["after"]["relative"]), note=note)
    num_removed = int((~catalog.active).sum())
    if num_removed:
        yield Fact(label="Items removed", value=write_count(num_removed), note="keep their IDs, are never recommended")


def _level_table(catalog: Catalog, found: Mapping[str, Any]) -> Table:
    prefixes = distinct_prefixes(catalog.codes)
    rows = []
    for level, (use, count) in enumerate(zip(found["levels"], prefixes, strict=True)):
        branching = count / (prefixes[level - 1] if level else 1)
        rows.append(
            (
                level + 1,
                write_count(use["codebook_size"]),
                f"{write_count(use['num_used'])} ({write_percent(use['share_used'])})",
                write_number(round(use["perplexity"], 1)),
                f"{use['entropy']:.2f}",
                write_count(max(use["counts"])),
                write_count(count),
                write_number(round(branching, 1)),
            )
        )
    columns = (
        "Level",
        "Codes",
        "Used",
        "Perplexity",
        "Entropy, nats",
        "Items on the fullest",
        "Distinct prefixes",
        "Children a prefix",
    )
    return Table(columns=columns, rows=tuple(rows))


def _use_figure(catalog: Catalog, found: Mapping[str, Any]) -> Figure:
    counts = [level["counts"] for level in found["levels"]]
    names = [f"level {level + 1}" for level in range(len(counts))]
    views = [
        View(label="By code", spec=_strip(names, counts)),
        View(label="Fullest first", spec=_strip(names, [sorted(level, reverse=True) for level in counts])),
    ]
    return Figure(
        key="figure-codes",
        title="Use of the codes",
        caption="One cell a code, darker with more items. Even colour is good use; pale cells are tokens the model "
        "never learns. Codebooks beyond 1,024 codes are drawn in cells of several.",
        views=tuple(views),
        height_px=90 + 62 * catalog.num_levels,
    )


def _strip(names: list[str], counts: list[list[int]]) -> Spec:
    cells = [_pooled(level) for level in counts]
    width = max(map(len, cells))
    padded = [[*level, *[None] * (width - len(level))] for level in cells]
    return heat_strip(names, padded, hover="%{y}, code %{x}: %{z:,.3~g} items", bar_title="items a code")


def _pooled(counts: list[int]) -> list[float | None]:
    """Returns the mean of neighbouring codes, so that there are at most _MAX_CELLS."""
    size = -(-len(counts) // _MAX_CELLS)
    return [
        sum(counts[start : start + size]) / len(counts[start : start + size]) for start in range(0, len(counts), size)
    ]


def _groups(catalog: Catalog, dataset: Dataset, popularity: Int[np.ndarray, "N"]) -> Iterator[CodeGroup]:
    spelling = Spelling.of(catalog.spelling, catalog.codebook_sizes)
    counts = np.bincount(catalog.codes[:, 0], minlength=catalog.codebook_sizes[0])
    titles = dataset.items["title"].to_list()
    for code in np.argsort(-counts, kind="stable")[:_NUM_GROUPS]:
        if counts[code] == 0:
            return
        members = np.flatnonzero(catalog.codes[:, 0] == code)
        yield CodeGroup(
            token=spelling.token(0, int(code)),
            num_items=int(counts[code]),
            share=float(counts[code] / counts.max()),
            share_text=write_percent(float(counts[code] / len(catalog))),
            titles=tuple(titles[row] or "(no title)" for row in _most_popular(members, popularity, _NUM_TITLES)),
        )


def _most_popular(members: Int[np.ndarray, "n"], popularity: Int[np.ndarray, "N"], count: int) -> list[int]:
    order = np.argsort(-popularity[members], kind="stable")[:count]
    return [int(row) for row in members[order]]


def _map_figure(catalog: Catalog, dataset: Dataset, popularity: Int[np.ndarray, "N"]) -> Figure:
    return Figure(
        key="figure-map",
        title="Map of the catalogue",
        caption="Every tile is a first code, its area the number of items, its colour how much they are used in "
        "training. Point at one for titles, click for its second codes.",
        views=(View(label="Map", spec=_map_spec(catalog, dataset, popularity)),),
        height_px=460,
    )


def _map_spec(catalog: Catalog, dataset: Dataset, popularity: Int[np.ndarray, "N"]) -> Spec:
    """Returns nested tiles: the fullest first codes and, in each, the fullest second codes and one for the rest."""
    spelling = Spelling.of(catalog.spelling, catalog.codebook_sizes)
    titles = dataset.items["title"].to_list()
    everything = f"all {len(catalog):,} items"
    nodes: list[tuple[str, str, str, np.ndarray]] = [(everything, everything, "", np.arange(len(catalog)))]
    for first, members in _fullest(catalog.codes[:, 0], np.arange(len(catalog)), _MAX_FIRST_CODES):
        name = spelling.token(0, first)
        nodes.append((name, name, everything, members))
        if catalog.num_levels > 1:
            children = list(_fullest(catalog.codes[members, 1], members, _MAX_SECOND_CODES))
            nodes += [(name + spelling.token(1, code), spelling.token(1, code), name, rows) for code, rows in children]
            shown = np.concatenate([rows for _, rows in children])
            rest = np.setdiff1d(members, shown)
            if len(rest):
                nodes.append((f"{name} others", "others", name, rest))
    return tree_map(
        ids=[node for node, _, _, _ in nodes],
        labels=[_escape(label) for _, label, _, _ in nodes],
        parents=[parent for _, _, parent, _ in nodes],
        sizes=[len(rows) for _, _, _, rows in nodes],
        heats=[round(float(np.log10(1 + popularity[rows].mean())), 3) for _, _, _, rows in nodes],
        texts=["<br>".join(_top_titles(rows, titles, popularity, 2, 24)) for _, _, _, rows in nodes],
        hovers=[_tile_hover(label, rows, titles, popularity) for _, label, _, rows in nodes],
        bar_title="interactions an item, log10",
    )


def _fullest(
    codes: Int[np.ndarray, "n"], rows: Int[np.ndarray, "n"], count: int
) -> Iterator[tuple[int, Int[np.ndarray, "m"]]]:
    values, sizes = np.unique(codes, return_counts=True)
    for position in np.argsort(-sizes, kind="stable")[:count]:
        yield int(values[position]), rows[codes == values[position]]


def _tile_hover(label: str, rows: Int[np.ndarray, "n"], titles: list[str], popularity: Int[np.ndarray, "N"]) -> str:
    head = f"<b>{_escape(label)}</b> · {len(rows):,} items"
    return "<br>".join([head, *_top_titles(rows, titles, popularity, 5, 60)])


def _top_titles(
    rows: Int[np.ndarray, "n"], titles: list[str], popularity: Int[np.ndarray, "N"], count: int, num_characters: int
) -> list[str]:
    found = [titles[row] or "(no title)" for row in _most_popular(rows, popularity, count)]
    return [_escape(title if len(title) <= num_characters else title[: num_characters - 1] + "…") for title in found]


def _escape(text: str) -> str:
    """Returns text that plotly's small HTML shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
