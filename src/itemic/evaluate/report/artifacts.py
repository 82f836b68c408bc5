"""Reads what a run folder holds for its report; knows neither how the page looks nor what is worth saying.

Every artefact may be missing (None or empty here): a report of a run that is half done says what is still to come.
One that is there but damaged raises, as everywhere.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from safetensors import SafetensorError, safe_open

from itemic.core.dataset import Dataset
from itemic.core.errors import ArtifactError
from itemic.core.files import read_json
from itemic.core.run import Run
from itemic.evaluate.evaluate import ranking_file_name
from itemic.sid.catalog import Catalog

__all__ = ["EmbeddingFile", "ModelFiles", "RunArtifacts", "TrainingLog", "read_artifacts", "read_training_log"]

Record = Mapping[str, Any]

STAGE_NAME = "report"
_LOGS = {
    "training": ("sft.jsonl", "checkpoints/sft/sft.jsonl"),
    "alignment": ("align/align.jsonl", "checkpoints/align/align.jsonl"),
    "reinforcement": ("rl/rl.jsonl", "checkpoints/rl/rl.jsonl"),
}
LOG_NAMES = tuple(name for names in _LOGS.values() for name in names)


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """What training wrote, step by step; a step that was trained again after a restart is kept once, as it last was."""

    train: tuple[Record, ...]
    """Records with figures of training steps (``loss`` and what goes with it), by step."""
    valid: tuple[Record, ...]
    """Records with figures called ``valid_...``, by step; the best model was chosen by the first such figure."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """What the model folder says of itself, its weights unread."""

    config: Record
    """``config.json`` of the Hugging Face folder."""
    itemic: Record
    """``itemic.json``: catalog version, spelling, prompts."""
    num_parameters: int
    """Numbers in its weights, tied ones once."""
    num_bytes: int
    """Size of its weights on disk."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingFile:
    """What the embeddings say of themselves, their vectors unread."""

    width: int
    """Numbers an item."""
    metadata: Mapping[str, str]
    """Encoder, pooling, fields."""


@dataclass(frozen=True, kw_only=True)
class RunArtifacts:
    """Everything a report is made of."""

    name: str
    """Name of the run folder."""
    stages: Mapping[str, Any]
    """The manifest's entries but the report's own, by stage, in the order in which the stages first ran."""
    dataset: Dataset | None
    rejects: pl.DataFrame | None
    catalog: Catalog | None
    quality: Record | None
    """``catalog/quality.json``."""
    has_sid_page: bool
    """Whether ``sids.html``, the page of the semantic IDs, lies beside."""
    embeddings: EmbeddingFile | None
    training: TrainingLog | None
    """``sft.jsonl``."""
    alignment: TrainingLog | None
    """``align/align.jsonl``, of the training before that."""
    reinforcement: TrainingLog | None
    """``rl/rl.jsonl``, of the training after it."""
    model: ModelFiles | None
    metrics: Record | None
    """``metrics.json``."""
    rankings: Mapping[str, pl.DataFrame]
    """Ranked lists by recommender name, for those in ``metrics`` whose file is there."""


def read_artifacts(run: Run) -> RunArtifacts:
    """Returns what lies in the run folder.

    Raises:
        ArtifactError: if an artefact is there but damaged.
    """
    metrics = _optional_json(run.path("metrics.json"))
    return RunArtifacts(
        name=run.folder.resolve().name,
        stages={name: entry for name, entry in run.manifest()["stages"].items() if name != STAGE_NAME},
        dataset=Dataset.load(run.path("dataset")) if run.path("dataset").is_dir() else None,
        rejects=_optional_parquet(run.path("rejects.parquet")),
        catalog=Catalog.load(run.path("catalog")) if run.path("catalog").is_dir() else None,
        quality=_optional_json(run.path("catalog") / "quality.json"),
        has_sid_page=run.path("sids.html").is_file(),
        embeddings=_read_embeddings(run.path("embeddings.safetensors")),
        training=_read_log(run, *_LOGS["training"]),
        alignment=_read_log(run, *_LOGS["alignment"]),
        reinforcement=_read_log(run, *_LOGS["reinforcement"]),
        model=_read_model(run.path("model")) if (run.path("model") / "config.json").is_file() else None,
        metrics=metrics,
        rankings=_read_rankings(run.path("rankings"), metrics),
    )


def read_training_log(path: Path) -> TrainingLog:
    """Returns the records of a training log.

    A last line without its end (training was killed, or is still writing) is left out; a step that occurs twice
    (training went on from an earlier checkpoint) is kept as it was written last.

    Raises:
        ArtifactError: naming the line that is not a record.
    """
    *lines, unfinished = path.read_text(encoding="utf-8").split("\n")
    del unfinished
    train: dict[int, Record] = {}
    valid: dict[int, Record] = {}
    for number, line in enumerate(lines, start=1):
        record = _parse_record(path, number, line)
        keys = record.keys() - {"step", "epoch"}
        num_valid = sum(key.startswith("valid_") for key in keys)
        if num_valid < len(keys):
            train[record["step"]] = record
        if num_valid:
            valid[record["step"]] = record
    return TrainingLog(
        train=tuple(record for _, record in sorted(train.items())),
        valid=tuple(record for _, record in sorted(valid.items())),
    )


def _parse_record(path: Path, number: int, line: str) -> Record:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path}, line {number}: not valid JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise ArtifactError(f"{path}, line {number}: expected an object with a whole number as step, found {line[:80]}")
    return record


def _read_model(folder: Path) -> ModelFiles:
    weights = sorted(folder.glob("*.safetensors"))
    return ModelFiles(
        config=read_json(folder / "config.json"),
        itemic=_optional_json(folder / "itemic.json") or {},
        num_parameters=sum(map(_count_parameters, weights)),
        num_bytes=sum(path.stat().st_size for path in weights),
    )


def _count_parameters(path: Path) -> int:
    try:
        with safe_open(path, framework="numpy") as tensors:
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not valid safetensors: {error}") from None


def _read_embeddings(path: Path) -> EmbeddingFile | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as tensors:
            width = tensors.get_slice("embeddings").get_shape()[1]
            return EmbeddingFile(width=width, metadata=tensors.metadata() or {})
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not the embeddings of a run: {error}") from None


def _read_log(run: Run, finished: str, under_way: str) -> TrainingLog | None:
    """Returns the log of the training that made the model or, before there is one, of the one under way."""
    paths = (run.path(name) for name in (finished, under_way))
    return next((read_training_log(path) for path in paths if path.is_file()), None)


def _read_rankings(folder: Path, metrics: Record | None) -> dict[str, pl.DataFrame]:
    if metrics is None:
        return {}
    paths = {name: folder / ranking_file_name(name) for name in metrics["recommenders"]}
    return {name: pl.read_parquet(path) for name, path in paths.items() if path.is_file()}


def _optional_json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _optional_parquet(path: Path) -> pl.DataFrame | None:
    return pl.read_parquet(path) if path.is_file() else None
