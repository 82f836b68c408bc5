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
    members: dict[int, list[int]] = {one: [] for one in chosen}
    for row in np.flatnonzero(np.isin(ids, chosen)).tolist():
        members[int(ids[row])].append(row)
    for rows in members.values():
        items = sorted((_fate(found, row) for row in rows), key=lambda item: item.is_moved)[:_MAX_ITEMS]
        yield Collided(sid=write_sid(found.codes_before[rows[0]].tolist()), num_items=len(rows), items=tuple(items))


def _fate(found: SidArtifacts, row: int) -> Fate:
    assert found.codes_before is not None
    after = found.catalog.codes[row]
    num_common = min(found.codes_before.shape[1], len(after))
    return Fate(
        title=shorten(found.titles[row], _TITLE_CHARACTERS),
        sid=write_sid(after.tolist()),
        is_moved=bool((found.codes_before[row, :num_common] != after[:num_common]).any()),
        is_active=bool(found.catalog.active[row]),
    )
