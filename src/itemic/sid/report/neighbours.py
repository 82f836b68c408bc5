"""Some items with their nearest items by text: do these begin with the same codes?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itemic.core.page.formats import shorten
from itemic.sid.quality.neighbours import nearest_items
from itemic.sid.quality.vectors import pair_similarities
from itemic.sid.report.artifacts import SidArtifacts

__all__ = ["Neighbour", "NeighbourExample", "describe_neighbours"]

_NUM_EXAMPLES = 8
_NUM_NEIGHBOURS = 6
_TITLE_CHARACTERS = 90


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """An item beside an example."""

    title: str
    codes: tuple[int, ...]
    num_shared: int
    """First codes in common with the example."""
    similarity: str
    """Cosine of the embeddings."""


@dataclass(frozen=True, kw_only=True)
class NeighbourExample:
    """An item and its nearest items, nearest first."""

    title: str
    codes: tuple[int, ...]
    neighbours: tuple[Neighbour, ...]


def describe_neighbours(found: SidArtifacts, rng: np.random.Generator) -> tuple[NeighbourExample, ...]:
    """Returns active items drawn at random with the nearest active ones; none without embeddings or company."""
    k = min(_NUM_NEIGHBOURS, found.catalog.num_active - 1)
    if found.x is None or k < 1:
        return ()
    candidates = np.flatnonzero(found.catalog.active)
    queries = rng.choice(candidates, size=min(_NUM_EXAMPLES, len(candidates)), replace=False)
    nearest = nearest_items(found.x, queries, k, found.catalog.active)
    return tuple(_example(found, int(row), near.tolist()) for row, near in zip(queries, nearest, strict=True))


def _example(found: SidArtifacts, row: int, nearest: Sequence[int]) -> NeighbourExample:
    assert found.x is not None
    codes = found.catalog.codes
    pairs = np.array([(row, other) for other in nearest])
    similarities = pair_similarities(found.x, pairs)
    return NeighbourExample(
        title=shorten(found.titles[row], _TITLE_CHARACTERS),
        codes=tuple(codes[row].tolist()),
        neighbours=tuple(
            Neighbour(
                title=shorten(found.titles[other], _TITLE_CHARACTERS),
                codes=tuple(codes[other].tolist()),
                num_shared=int(np.logical_and.accumulate(codes[row] == codes[other]).sum()),
                similarity=f"{similarity:.2f}",
            )
            for other, similarity in zip(nearest, similarities, strict=True)
        ),
    )
