"""The items that the quantizer gave one SID, and where each of them went."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from itemic.core.page.formats import shorten
from itemic.sid.order import same_row_ids
from itemic.sid.report.artifacts import SidArtifacts, write_sid

__all__ = ["Collided", "CollisionSection", "Fate", "describe_collisions"]

_MAX_GROUPS = 60
_MAX_ITEMS = 24
_TITLE_CHARACTERS = 110


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of one item."""

    title: str
    sid: str
    """In the catalog."""
    is_moved: bool
    is_active: bool


@dataclass(frozen=True, kw_only=True)
class Collided:
    """Items that had one SID."""

    sid: str
    """As coded."""
    num_items: int
    items: tuple[Fate, ...]
    """The first of them."""


@dataclass(frozen=True, kw_only=True)
class CollisionSection:
    """All groups of items that had one SID."""

    num_groups: int
    num_items: int
    """Items in them."""
    groups: tuple[Collided, ...]
    """The largest."""
    shares: bool
    """Whether they have it still."""


def describe_collisions(found: SidArtifacts) -> CollisionSection | None:
    """Returns the largest groups of items that had one SID; None where the run does not say what they had."""
    if found.codes_before is None:
        return None
    ids = same_row_ids(found.codes_before)
    counts = np.bincount(ids)
    shared = np.flatnonzero(counts > 1)
    largest = shared[np.argsort(-counts[shared], kind="stable")][:_MAX_GROUPS]
    return CollisionSection(
        num_groups=len(shared),
        num_items=int(counts[shared].sum()),
        groups=tuple(_groups(found, ids, largest.tolist())),
        shares=found.catalog.shares,
    )


def _groups(found: SidArtifacts, ids: np.ndarray, chosen: list[int]) -> Iterator[Collided]:
    assert found.codes_before is not None
    members: dict[int, np.ndarray] = dict(_members(ids, chosen))
    for one in chosen:
        rows = members[one]
        moved = _is_moved(found, rows)
        shown = rows[np.argsort(moved, kind="stable")[:_MAX_ITEMS]]
        sid = write_sid(found.codes_before[rows[0]].tolist())
        yield Collided(sid=sid, num_items=len(rows), items=tuple(_fate(found, row) for row in shown.tolist()))


def _members(ids: np.ndarray, chosen: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each chosen group with its rows, in their order."""
    rows = np.flatnonzero(np.isin(ids, chosen))
    rows = rows[np.argsort(ids[rows], kind="stable")]
    groups, starts = np.unique(ids[rows], return_index=True)
    ends = [*starts[1:].tolist(), len(rows)]
    for group, start, end in zip(groups.tolist(), starts.tolist(), ends, strict=False):
        yield group, rows[start:end]


def _is_moved(found: SidArtifacts, rows: np.ndarray) -> np.ndarray:
    assert found.codes_before is not None
    num_common = min(found.codes_before.shape[1], found.catalog.num_levels)
    is_moved: np.ndarray = (found.codes_before[rows, :num_common] != found.catalog.codes[rows, :num_common]).any(axis=1)
    return is_moved


def _fate(found: SidArtifacts, row: int) -> Fate:
    return Fate(
        title=shorten(found.titles[row], _TITLE_CHARACTERS),
        sid=write_sid(found.catalog.codes[row].tolist()),
        is_moved=bool(_is_moved(found, np.array([row]))[0]),
        is_active=bool(found.catalog.active[row]),
    )
