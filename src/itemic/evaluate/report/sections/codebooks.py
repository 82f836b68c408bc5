"""What the report says of the semantic IDs: collisions, use of every code, error, and what the first codes mean."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from itemic.core.dataset import Dataset
from itemic.core.page.formats import write_count, write_number, write_percent
from itemic.evaluate.report.artifacts import EmbeddingFile, RunArtifacts
from itemic.evaluate.report.figures import Figure, Spec, Table, View, heat_strip
from itemic.evaluate.report.focus import Standing
from itemic.evaluate.report.sections.catalog_map import map_figure, top_titles
from itemic.evaluate.report.sections.parts import Fact, Missing
from itemic.language.spelling import Spelling
from itemic.sid.catalog import Catalog

__all__ = ["CodeGroup", "CodebookSection", "describe_codebooks", "distinct_prefixes", "same_first_code"]

_NUM_GROUPS = 12
_NUM_TITLES = 5
_TITLE_CHARACTERS = 60
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
    has_page: bool
    """Whether the run has a page of the semantic IDs alone."""


def describe_codebooks(artifacts: RunArtifacts, place: Standing | None, cutoff: int) -> CodebookSection | Missing:
    """Returns the section, or what is missing for it.

    Args:
        artifacts: The run.
        place: Whose hits colour the map.
        cutoff: Length of the lists in which a target is a hit.
    """
    catalog, found = artifacts.catalog, artifacts.quality
    if catalog is None or found is None:
        return Missing.of("catalog/", "tokenize")
    groups: tuple[CodeGroup, ...] = ()
    figures = [_use_figure(catalog, found)]
    if artifacts.dataset is not None:
        popularity = artifacts.dataset.train_counts()
        groups = tuple(_groups(catalog, artifacts.dataset, popularity))
        ranked = artifacts.rankings.get(place.focus) if place else None
        figures.append(map_figure(catalog, artifacts.dataset, popularity, ranked, cutoff))
    return CodebookSection(
        facts=(*_facts(catalog, found), *_locality(catalog, artifacts.dataset), *_embedding(artifacts.embeddings)),
        levels=_level_table(catalog, found),
        groups=groups,
        num_groups=len(np.unique(catalog.codes[:, 0])),
        figures=tuple(figures),
        has_page=artifacts.has_sid_page,
    )


def distinct_prefixes(codes: Int[np.ndarray, "N L"]) -> list[int]:
    """Returns how many different prefixes of 1, 2, ... L codes the items have."""
    return [len(np.unique(codes[:, :depth], axis=0)) for depth in range(1, codes.shape[1] + 1)]


def _facts(catalog: Catalog, found: Mapping[str, Any]) -> Iterator[Fact]:
    before, after = found["collisions"]["before"], found["collisions"]["after"]
    space = int(np.prod([float(size) for size in catalog.codebook_sizes]))
    sizes = " × ".join(map(str, catalog.codebook_sizes))
    if len(set(catalog.codebook_sizes)) == 1:
        sizes = f"{catalog.num_levels} × {catalog.codebook_sizes[0]:,}"
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
    near = found.get("neighbourhood")
    if near:
        first = near["by_length"][0]
        note = f"{write_percent(first['chance'])} by chance"
        label = f"Nearest {near['k']} items with the same first code"
        yield Fact(label=label, value=write_percent(first["recall"]), note=note)
    num_removed = int((~catalog.active).sum())
    if num_removed:
        yield Fact(label="Items removed", value=write_count(num_removed), note="keep their IDs, are never recommended")


def _embedding(embeddings: EmbeddingFile | None) -> Iterator[Fact]:
    if embeddings is not None:
        encoder = embeddings.metadata.get("encoder", "unknown").rstrip("/").rpartition("/")[2]
        yield Fact(label="Text encoder", value=encoder, note=f"{write_count(embeddings.width)} numbers an item")


def _locality(catalog: Catalog, dataset: Dataset | None) -> Iterator[Fact]:
    """Yields how often a user stays under one first code: what the IDs alone say of the next item."""
    if dataset is None or dataset.test.is_empty():
        return
    tests = dataset.test.filter(pl.col("history").list.len() > 0)
    last, target = tests["history"].list.last().to_numpy(), tests["target"].to_numpy()
    stay, chance = same_first_code(catalog.codes[:, 0], last, target)
    note = f"as the last item; {write_percent(chance)} by chance"
    yield Fact(label="Next item has the same first code", value=write_percent(stay), note=note)


def same_first_code(
    first_codes: Int[np.ndarray, "N"], last: Int[np.ndarray, "B"], target: Int[np.ndarray, "B"]
) -> tuple[float, float]:
    """Returns the share of pairs with one first code, and the share were the pairs drawn apart.

    Args:
        first_codes: First code of every item.
        last: One item of each pair.
        target: The other.
    """
    one, other = first_codes[last], first_codes[target]
    size = int(first_codes.max()) + 1
    shares = [np.bincount(codes, minlength=size) / max(1, len(codes)) for codes in (one, other)]
    return float((one == other).mean()) if len(one) else 0.0, float(shares[0] @ shares[1])


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
        caption="One cell a code, its colour the stronger the more items. Even colour is good use; cells without are "
        "tokens the model never learns. Codebooks beyond 1,024 codes are drawn in cells of several.",
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
            titles=tuple(top_titles(members, titles, popularity, _NUM_TITLES, _TITLE_CHARACTERS)),
        )
