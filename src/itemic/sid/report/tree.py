"""The tree of the codes as the page's script draws it: which items travel with the page, and how many lie where."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from itemic.core.page.formats import shorten
from itemic.sid.order import lexicographic_order
from itemic.sid.quality.prefixes import prefix_ids
from itemic.sid.report.artifacts import SidArtifacts
from itemic.sid.report.groups import group_items

__all__ = ["TreeSection", "describe_tree", "pick_rows"]

_TITLE_CHARACTERS = 100
_LEAST_PER_PREFIX = 4


@dataclass(frozen=True, kw_only=True)
class TreeSection:
    """The tree and what is said of it."""

    num_items: int
    num_shown: int
    """Items that travel with the page; fewer than all of a large catalog."""
    has_groups: bool
    """Whether like first codes are grouped."""
    data: dict[str, Any]
    """For the script: see ``describe_tree``."""


def describe_tree(found: SidArtifacts, max_items: int) -> TreeSection:
    """Returns the tree of the items, at most about ``max_items`` of them.

    The data are columns over the items shown, in the order of the tree: ``columns`` (the group of like first codes
    where ``has_groups``, then one list of codes a level), ``ids``, ``titles``, ``labels`` (by column: names, and for
    each item the number of its first one or -1), ``inactive`` and ``moved`` (item number to the codes before).
    ``counts`` has for each column the number of items, shown or not, in every box, in the same order.
    """
    catalog = found.catalog
    ids = prefix_ids(catalog.codes)
    rows = pick_rows(catalog.codes, ids, max_items)
    groups = None if found.x is None else group_items(catalog.codes[rows, 0], found.x[rows])
    counts = [np.bincount(ids[:, level]) for level in range(catalog.num_levels)]
    columns = list(catalog.codes[rows].T)
    boxes = [ids[rows, level] for level in range(catalog.num_levels)]
    if groups is not None:
        order = np.argsort(groups, kind="stable")
        rows, groups = rows[order], groups[order]
        columns, boxes = [groups, *catalog.codes[rows].T], [groups, *ids[rows].T]
        counts.insert(0, _group_sizes(groups, catalog.codes[rows, 0], catalog.codes[:, 0]))
    data = {
        "total": len(catalog),
        "has_groups": groups is not None,
        "columns": [column.tolist() for column in columns],
        "counts": [_in_order(sizes, box) for sizes, box in zip(counts, boxes, strict=True)],
        "ids": [catalog.item_ids[row] for row in rows],
        "titles": [shorten(found.titles[row], _TITLE_CHARACTERS) for row in rows],
        "labels": {name: _label_column(column, rows) for name, column in found.labels.items()},
        "inactive": np.flatnonzero(~catalog.active[rows]).tolist(),
        "moved": _moved(found, rows),
    }
    return TreeSection(num_items=len(catalog), num_shown=len(rows), has_groups=groups is not None, data=data)


def pick_rows(codes: Int[np.ndarray, "N L"], ids: Int[np.ndarray, "N L"], max_items: int) -> Int[np.ndarray, "n"]:
    """Returns the rows to show, in lexicographic order: all if they are few, else a share of the fullest prefixes.

    Of a large catalog the fullest prefixes of two codes (and the fullest below every first code) give at least four
    items each, evenly spaced over their SIDs.
    """
    order = lexicographic_order(codes)
    if len(order) <= max_items:
        return order
    group = ids[order, min(2, codes.shape[1]) - 1]
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    by_size = np.argsort(-sizes, kind="stable")
    _, first_of_its_kind = np.unique(codes[order[starts[by_size]], 0], return_index=True)
    chosen = np.union1d(by_size[: max(1, max_items // _LEAST_PER_PREFIX)], by_size[first_of_its_kind])
    share = max(_LEAST_PER_PREFIX, max_items // len(chosen))
    places = [starts[one] + np.unique(np.linspace(0, sizes[one] - 1, share).astype(np.int64)) for one in chosen]
    rows: np.ndarray = order[np.concatenate(places)]
    return rows


def _group_sizes(
    groups: Int[np.ndarray, "n"], first_codes: Int[np.ndarray, "n"], all_first_codes: Int[np.ndarray, "N"]
) -> Int[np.ndarray, "g"]:
    """Returns the number of all items in each group, of which some items are known with their first code."""
    group_of = np.zeros(int(all_first_codes.max()) + 1, dtype=np.int64)
    group_of[first_codes] = groups
    return np.bincount(group_of[all_first_codes])


def _in_order(sizes: Int[np.ndarray, "b"], boxes: Int[np.ndarray, "n"]) -> list[int]:
    """Returns the sizes of the boxes in the order in which they come, each once."""
    starts = np.flatnonzero(np.diff(boxes, prepend=-1))
    counts: list[int] = sizes[boxes[starts]].tolist()
    return counts


def _label_column(labels: Sequence[Sequence[str]], rows: Int[np.ndarray, "n"]) -> dict[str, Any]:
    numbers: dict[str, int] = {}
    of = [numbers.setdefault(labels[row][0], len(numbers)) if labels[row] else -1 for row in rows]
    return {"names": [shorten(name, 40) for name in numbers], "of": of}


def _moved(found: SidArtifacts, rows: Int[np.ndarray, "n"]) -> dict[str, list[int]]:
    if found.codes_before is None:
        return {}
    num_common = min(found.codes_before.shape[1], found.catalog.num_levels)
    differs = found.codes_before[rows, :num_common] != found.catalog.codes[rows, :num_common]
    places = np.flatnonzero(differs.any(axis=1))
    return {str(place): found.codes_before[rows[place]].tolist() for place in places}
