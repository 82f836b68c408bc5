"""Which rows of several runs are seeds of one, and what each is called in a table."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from itemic.core.errors import ConfigError
from itemic.evaluate.compare.runs import RunRow

__all__ = ["Grouping", "RowGroup", "group_rows"]

Grouping = Literal["auto", "name", "apart"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RowGroup:
    """Rows that are shown as one."""

    name: str
    """Unique in the table."""
    members: tuple[RunRow, ...]
    """One a seed, seeds rising."""


def group_rows(rows: Sequence[RunRow], grouping: Grouping) -> tuple[list[RowGroup], list[str]]:
    """Returns the rows of the table, those of different seeds put together, and what a reader should know of it.

    A row that is there twice (one run given twice, or one baseline in two runs of one seed: the same settings and, for
    every example, the same rank) is shown once. Different things of one name get their runs' names appended.

    Args:
        rows: Of all runs.
        grouping: As ``CompareConfig.seeds``.

    Raises:
        ConfigError: if two rows of one name and one seed are to be put together but list other items.
    """
    distinct: list[RunRow] = []
    dropped: list[RunRow] = []
    for row in rows:
        (dropped if any(_is_same(row, other) for other in distinct) else distinct).append(row)
    by_key: dict[tuple[str, ...], list[RunRow]] = {}
    for row in distinct:
        by_key.setdefault(_key(row, grouping), []).append(row)
    groups = [RowGroup(name=members[0].name, members=_by_seed(members, grouping)) for members in by_key.values()]
    notes = [
        f"{', '.join(dict.fromkeys(row.name for row in dropped))}: the same in several runs, shown once"
        for _ in dropped[:1]
    ]
    return _named_apart(groups), notes


def _key(row: RunRow, grouping: Grouping) -> tuple[str, ...]:
    if grouping == "name":
        return (row.name,)
    return (row.name, row.made_from) if grouping == "auto" else (row.name, row.made_from, row.run)


def _is_same(row: RunRow, other: RunRow) -> bool:
    facts = [(one.name, one.entry.get("settings"), one.seed) for one in (row, other)]
    return facts[0] == facts[1] and row.rankings.equals(other.rankings)


def _by_seed(members: Sequence[RunRow], grouping: Grouping) -> tuple[RunRow, ...]:
    ordered = sorted(members, key=lambda row: row.seed)
    for one, other in itertools.pairwise(ordered):
        if one.seed == other.seed:
            raise ConfigError(
                f"{one.run} and {other.run} have {one.name} of one seed, {one.seed}, with different results: "
                "put them apart (--seeds apart) or leave one out"
                if grouping != "apart"
                else f"{one.run} has {one.name} twice"
            )
    return tuple(ordered)


def _named_apart(groups: Sequence[RowGroup]) -> list[RowGroup]:
    names = [group.name for group in groups]
    doubled = [group for group in groups if names.count(group.name) > 1]
    short = _short_names({member.run for group in doubled for member in group.members})
    return [
        replace(group, name=f"{group.name} ({', '.join(short[member.run] for member in group.members)})")
        if group in doubled
        else group
        for group in groups
    ]


def _short_names(runs: set[str]) -> Mapping[str, str]:
    """Returns each folder's last part, the whole path where two end alike."""
    last = {run: PurePosixPath(run).name for run in runs}
    return {run: name if list(last.values()).count(name) == 1 else run for run, name in last.items()}
