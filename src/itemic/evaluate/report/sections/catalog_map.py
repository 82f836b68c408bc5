"""The catalogue as nested tiles by semantic ID, coloured by use and by hits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int

from itemic.core.dataset import Dataset
from itemic.core.page.formats import shorten, write_percent
from itemic.evaluate.report.figures import Figure, View, tree_map
from itemic.evaluate.report.hits import hit_probability
from itemic.language.spelling import Spelling
from itemic.sid.catalog import Catalog

__all__ = ["Tile", "map_figure", "tiles", "top_titles"]

_MAX_FIRST_CODES = 256
_MAX_SECOND_CODES = 6
_REST = "others"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """The items under one prefix."""

    name: str
    """Unique in the map."""
    label: str
    parent: str
    """Name of the tile it lies in; empty for the whole."""
    items: Int[np.ndarray, "n"]
    """Item indices."""


def map_figure(
    catalog: Catalog, dataset: Dataset, popularity: Int[np.ndarray, "N"], ranked: pl.DataFrame | None, cutoff: int
) -> Figure:
    """Returns the map, coloured by use and, where there are ranked lists, by how often targets are hit.

    Args:
        catalog: The semantic IDs.
        dataset: Titles.
        popularity: Training interactions of every item.
        ranked: Ranked lists of one recommender.
        cutoff: Length of the lists in which a target is a hit.
    """
    parts = list(tiles(catalog))
    means = [float(popularity[part.items].mean()) for part in parts]
    notes = [f"{mean:,.1f} training interactions an item" for mean in means]
    uses = [round(float(np.log10(1 + mean)), 3) for mean in means]
    views = [_view("By use", parts, dataset, popularity, uses, notes, "training interactions an item, log10")]
    if ranked is not None:
        rates, notes = _hit_rates(parts, ranked, dataset.num_items, cutoff)
        views.append(_view("By hits", parts, dataset, popularity, rates, notes, f"hit rate of targets at {cutoff}"))
    return Figure(
        key="figure-map",
        title="Map of the catalogue",
        caption="Every tile is a first code, its area the number of items, its colour how much they are used in "
        "training or how often they are hit. Point at one for titles, click for its second codes.",
        views=tuple(views),
        height_px=480,
    )


def tiles(catalog: Catalog) -> Iterator[Tile]:
    """Yields the whole, its fullest first codes, the fullest second codes of each, and in both a tile for the rest."""
    spelling = Spelling.of(catalog.spelling, catalog.codebook_sizes)
    everything = np.arange(len(catalog))
    whole = f"all {len(catalog):,} items"
    yield Tile(name=whole, label=whole, parent="", items=everything)
    for first in _children(spelling, 0, catalog, everything, "", whole, _MAX_FIRST_CODES):
        yield first
        if catalog.num_levels > 1 and first.label != _REST:
            yield from _children(spelling, 1, catalog, first.items, first.name, first.name, _MAX_SECOND_CODES)


def _children(
    spelling: Spelling,
    level: int,
    catalog: Catalog,
    rows: Int[np.ndarray, "n"],
    prefix: str,
    parent: str,
    max_tiles: int,
) -> Iterator[Tile]:
    codes = catalog.codes[rows, level]
    values, sizes = np.unique(codes, return_counts=True)
    shown = values[np.argsort(-sizes, kind="stable")[:max_tiles]]
    for code in shown.tolist():
        token = spelling.token(level, code)
        yield Tile(name=prefix + token, label=token, parent=parent, items=rows[codes == code])
    rest = rows[~np.isin(codes, shown)]
    if len(rest):
        yield Tile(name=f"{prefix}{_REST}", label=_REST, parent=parent, items=rest)


def _hit_rates(
    parts: Sequence[Tile], ranked: pl.DataFrame, num_items: int, cutoff: int
) -> tuple[list[float | None], list[str]]:
    """Returns the hit rate of the targets in every tile, None where there is none, and the same in words."""
    target = ranked["target"].to_numpy()
    num_targets = np.bincount(target, minlength=num_items)
    num_hits = np.bincount(target, weights=hit_probability(ranked, cutoff), minlength=num_items)
    rates: list[float | None] = []
    notes = []
    for part in parts:
        count = int(num_targets[part.items].sum())
        rate = round(float(num_hits[part.items].sum() / count), 4) if count else None
        rates.append(rate)
        notes.append("no targets here" if rate is None else f"{write_percent(rate)} of {count:,} targets hit")
    return rates, notes


def _view(
    label: str,
    parts: Sequence[Tile],
    dataset: Dataset,
    popularity: Int[np.ndarray, "N"],
    heats: Sequence[float | None],
    notes: Sequence[str],
    bar_title: str,
) -> View:
    titles = dataset.items["title"].to_list()
    is_first = [part.parent == parts[0].name for part in parts]
    first_heats = [heat for heat, first in zip(heats, is_first, strict=True) if first and heat is not None]
    heads = [f"<b>{_escape(part.label)}</b><br>{len(part.items):,} items" for part in parts]
    hovers = [
        "<br>".join([f"{head}, {note}", *_best(part, titles, popularity, 4, 48)])
        for part, head, note in zip(parts, heads, notes, strict=True)
    ]
    spec = tree_map(
        ids=[part.name for part in parts],
        labels=[_escape(part.label) for part in parts],
        parents=[part.parent for part in parts],
        sizes=[len(part.items) for part in parts],
        heats=heats,
        heat_range=(min(first_heats, default=0.0), max(first_heats, default=1.0)),
        texts=["<br>".join(_best(part, titles, popularity, 2, 20)) for part in parts],
        hovers=hovers,
        bar_title=bar_title,
    )
    return View(label=label, spec=spec)


def _best(
    part: Tile, titles: Sequence[str | None], popularity: Int[np.ndarray, "N"], count: int, num_characters: int
) -> list[str]:
    return [_escape(title) for title in top_titles(part.items, titles, popularity, count, num_characters)]


def top_titles(
    items: Int[np.ndarray, "n"],
    titles: Sequence[str | None],
    popularity: Int[np.ndarray, "N"],
    count: int,
    num_characters: int,
) -> list[str]:
    """Returns the titles of the most popular of some items, shortened; the lower index first among equals."""
    order = np.argsort(-popularity[items], kind="stable")[:count]
    return [shorten(titles[row] or "(no title)", num_characters) for row in items[order].tolist()]


def _escape(text: str) -> str:
    """Returns text that plotly's small HTML shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
