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

_PROTOCOL = ("split", "num_examples", "num_candidates", "exclude_history", "cutoffs", "ties")
"""What rows of one table must have in common; missing in both is in common too."""
_KEYS = ("example_id", "user_id", "target")
_COLUMNS = (*_KEYS, "num_better", "num_tied")
_OF_MODEL = ("embed", "collaborative", "tokenize", "align", "sft", "rl")
_OF_DECODING = ("model", "num_beams", "normalize", "dtype")


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
    settings: str
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
    model_settings = _model_settings(folder)
    return [
        RunRow(
            name=each,
            run=folder.as_posix(),
            seed=metrics["protocol"].get("seed", 0),
            protocol=metrics["protocol"],
            entry=entry,
            settings=model_settings if entry.get("settings") is None else _written(entry["settings"]),
            rankings=_read_rankings(folder / "rankings" / ranking_file_name(each)),
        )
        for each, entry in entries.items()
        if not name or each == name
    ]


def check_protocols(rows: Sequence[RunRow]) -> None:
    """Checks that all rows rank the same examples against the same candidates, in lists of the same length.

    Raises:
        ConfigError: naming two runs and what differs.
    """
    first = rows[0]
    for other in rows[1:]:
        both = f"{first.run} and {other.run} were not evaluated alike"
        for key in _PROTOCOL:
            values = first.protocol.get(key), other.protocol.get(key)
            if values[0] != values[1]:
                raise ConfigError(f"{both}: {key} is {values[0]} in the one and {values[1]} in the other")
        benchmarks = [name for name in (one.protocol.get("benchmark") for one in (first, other)) if name]
        if len(set(benchmarks)) > 1:
            raise ConfigError(f"{both}: the benchmark is {benchmarks[0]} in the one and {benchmarks[1]} in the other")
        for key in _KEYS:
            if not first.rankings[key].equals(other.rankings[key]):
                raise ConfigError(f"{both}: {first.name} and {other.name} have other values of {key}")


def _model_settings(folder: Path) -> str:
    """Returns what the run's manifest says its language model was made with."""
    stages = Run(folder).manifest()["stages"]
    made = {name: stages[name].get("config") for name in _OF_MODEL if name in stages}
    decoded = stages.get("evaluate", {}).get("config", {})
    return _written([made, {key: decoded.get(key) for key in _OF_DECODING}])


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
