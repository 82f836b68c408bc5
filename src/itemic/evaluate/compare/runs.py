"""Reads the recommenders of evaluated runs and checks that they were evaluated alike; computes nothing."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.files import read_json
from itemic.core.run import Run
from itemic.evaluate.evaluate import ranking_file_name

__all__ = ["RunRow", "check_protocols", "read_rows", "split_selection"]

_PROTOCOL = ("split", "num_examples", "num_candidates", "exclude_history", "cutoffs", "ties", "num_cold_items")
"""What rows of one table must have in common; missing in both is in common too."""
_EARLIER = {"num_cold_items": 0}
"""What figures mean that do not say it, since they are older than it."""
_KEYS = ("example_id", "user_id", "target")
_COLUMNS = (*_KEYS, "num_better", "num_tied")
_MAKING = ("prepare", "embed", "collaborative", "tokenize", "align", "sft", "rl", "blend")
_OF_DECODING = ("model", "num_beams", "normalize", "dtype", "answer", "titles")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunRow:
    """One recommender of one run."""

    name: str
    run: str
    """The run's folder, as it was given."""
    seed: int
    protocol: Mapping[str, Any]
    entry: Mapping[str, Any]
    """What ``metrics.json`` has of it."""
    made_from: str
    """What it was made with, the seed aside, as text that is equal where that is equal."""
    rankings: pl.DataFrame
    """``rankings/<name>.parquet`` without the lists, by ``example_id``."""


def split_selection(text: str) -> tuple[Path, str]:
    """Returns the folder and the name of ``RUN:NAME``; the name is empty for ``RUN``, all its recommenders.

    A folder whose own name has a colon is taken as a folder where it is there.
    """
    if not Path(text).is_dir() and ":" in text:
        folder, _, name = text.partition(":")
        while not Path(folder).is_dir() and ":" in name:
            more, _, name = name.partition(":")
            folder = f"{folder}:{more}"
        return Path(folder), name
    return Path(text), ""


def read_rows(selection: str) -> list[RunRow]:
    """Returns the recommenders that ``RUN`` or ``RUN:NAME`` means.

    Raises:
        ArtifactError: if the run is not evaluated, or a file of it is damaged.
        ConfigError: if it has no recommender of that name.
    """
    folder, name = split_selection(selection)
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such run folder")
    path = folder / "metrics.json"
    if not path.is_file():
        raise ArtifactError(f"{folder}: not evaluated yet, metrics.json is missing; run itemic evaluate --run {folder}")
    metrics = read_json(path)
    if not isinstance(metrics, dict) or not {"protocol", "recommenders"} <= metrics.keys():
        raise ArtifactError(f"{path}: not the figures of a run")
    entries = metrics["recommenders"]
    if name and name not in entries:
        nearest = difflib.get_close_matches(name, list(entries), n=1, cutoff=0.0)
        raise ConfigError(
            f"{folder} has no recommender {name!r}; did you mean {nearest[0]}? It has {', '.join(entries)}"
        )
    earlier = _all_settings(folder)
    return [
        RunRow(
            name=each,
            run=folder.as_posix(),
            seed=metrics["protocol"].get("seed", 0),
            protocol=metrics["protocol"],
            entry=entry,
            made_from=entry.get("made_from") or _written([entry.get("settings"), earlier]),
            rankings=_read_rankings(folder / "rankings" / ranking_file_name(each)),
        )
        for each, entry in entries.items()
        if not name or each == name
    ]


def check_protocols(rows: Sequence[RunRow]) -> list[str]:
    """Returns what could not be checked, after checking that all rows were asked the same.

    The same is: examples, the histories shown with them, candidates, items kept from all learning, length of lists.

    Raises:
        ConfigError: naming two runs and what differs.
    """
    first = rows[0]
    for other in rows[1:]:
        both = f"{first.run} and {other.run} were not evaluated alike"
        for key in _PROTOCOL:
            values = [one.protocol.get(key, _EARLIER.get(key)) for one in (first, other)]
            if values[0] != values[1]:
                raise ConfigError(f"{both}: {key} is {values[0]} in the one and {values[1]} in the other")
        benchmarks = [name for name in (one.protocol.get("benchmark") for one in (first, other)) if name]
        if len(set(benchmarks)) > 1:
            raise ConfigError(f"{both}: the benchmark is {benchmarks[0]} in the one and {benchmarks[1]} in the other")
        for key in _KEYS:
            if not first.rankings[key].equals(other.rankings[key]):
                raise ConfigError(f"{both}: {first.name} and {other.name} have other values of {key}")
    return _check_histories(rows)


def _check_histories(rows: Sequence[RunRow]) -> list[str]:
    """Returns a note where a run is too old to tell its histories."""
    told = [row for row in rows if row.protocol.get("histories_hash")]
    for other in told[1:]:
        if other.protocol["histories_hash"] != told[0].protocol["histories_hash"]:
            ways = [
                f"max_history {row.protocol.get('max_history')}"
                + (", rebuilt from the log" if row.protocol.get("rebuilt_histories") else "")
                for row in (told[0], other)
            ]
            raise ConfigError(
                f"{told[0].run} and {other.run} were not evaluated alike: the histories of the examples differ "
                f"({ways[0]} in the one, {ways[1]} in the other)"
            )
    silent = list(dict.fromkeys(row.run for row in rows if row not in told))
    if not silent or len({row.run for row in rows}) == 1:
        return []
    return [
        f"{', '.join(silent)}: evaluated by an earlier version, which did not record the histories; whether they are "
        "those of the other runs was not checked"
    ]


def _all_settings(folder: Path) -> dict[str, Any]:
    """Returns what anything in the run may be made with.

    For figures of an earlier version, which do not say of each row what it was made with: rows that differ only in
    what they never read are then kept apart.
    """
    stages = Run(folder).manifest()["stages"]
    made = {name: stages[name].get("config") for name in _MAKING if name in stages}
    decoded = stages.get("evaluate", {}).get("config", {})
    return {**made, "evaluate": {key: decoded.get(key) for key in _OF_DECODING}}


def _written(settings: Any) -> str:
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)


def _read_rankings(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise ArtifactError(f"{path}: missing; run itemic evaluate again")
    try:
        lacking = [column for column in _COLUMNS if column not in pl.read_parquet_schema(path)]
        if lacking:
            raise ArtifactError(f"{path}: no ranking file, it lacks the columns {', '.join(lacking)}")
        return pl.read_parquet(path, columns=list(_COLUMNS)).sort("example_id")
    except pl.exceptions.ComputeError as error:
        raise ArtifactError(f"{path}: not valid parquet: {error}") from None
