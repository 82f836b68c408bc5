"""The run folder: where each stage's files lie, what made them, and whether they are still up to date."""

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from itemic.core.errors import ArtifactError
from itemic.core.files import path_hash, read_json, text_hash, write_json

__all__ = ["Run", "StageResult", "stage_fingerprint"]

log = logging.getLogger("itemic")

_REPORTED_PACKAGES = (
    "itemic",
    "torch",
    "transformers",
    "accelerate",
    "polars",
    "numpy",
    "safetensors",
)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage left behind."""

    name: str
    """Stage name, "tokenize" say."""
    skipped: bool
    """Whether inputs and config were unchanged, so that nothing ran."""
    metrics: dict[str, Any]
    """The stage's own figures, from this run or from the one that is still up to date."""
    wall_time_s: float
    """Seconds the stage took when it ran."""


@dataclass(frozen=True, init=False)
class Run:
    """One folder with a pipeline's artefacts and ``manifest.json``."""

    folder: Path

    def __init__(self, folder: Path | str) -> None:
        """Names the folder, which need not be there yet."""
        object.__setattr__(self, "folder", Path(folder))

    @property
    def manifest_path(self) -> Path:
        """Path of ``manifest.json``."""
        return self.folder / "manifest.json"

    def path(self, name: str) -> Path:
        """Returns the path of an artefact, ``dataset`` or ``metrics.json`` say."""
        return self.folder / name

    def require(self, name: str, stage: str) -> Path:
        """Returns the path of an artefact that must be there.

        Raises:
            ArtifactError: naming the stage that makes it.
        """
        path = self.path(name)
        if not path.exists():
            raise ArtifactError(f"{path}: missing; run itemic {stage} first")
        return path

    def manifest(self) -> dict[str, Any]:
        """Returns the manifest, empty for a new run."""
        if not self.manifest_path.exists():
            return {"stages": {}}
        manifest: dict[str, Any] = read_json(self.manifest_path)
        return manifest

    def stage(
        self,
        name: str,
        work: Callable[[], Mapping[str, Any]],
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, Path],
        outputs: Sequence[str],
        seed: int,
        force: bool = False,
        quiet: bool = False,
    ) -> StageResult:
        """Runs ``work`` unless its outputs already come from the same config, inputs and seed.

        ``work`` writes the outputs atomically and returns the stage's figures. The manifest gets its entry after
        the outputs are there, so a kill at any moment means that the stage runs (or resumes) again.

        Args:
            name: Stage name; one entry in the manifest.
            work: The stage itself.
            config: Everything that changes the result, as plain values.
            inputs: Files and folders that are read, by a short name.
            outputs: Names of the artefacts in this folder.
            seed: The run's seed.
            force: Runs even where nothing changed.
            quiet: Whether to say nothing where nothing changed: another stage asks, not the user.
        """
        input_hashes = {key: path_hash(path) for key, path in sorted(inputs.items())}
        fingerprint = stage_fingerprint(config, input_hashes, seed, outputs)
        entry = self.manifest()["stages"].get(name)
        if entry and not force and entry["fingerprint"] == fingerprint and self._outputs_unchanged(entry):
            log.log(logging.DEBUG if quiet else logging.INFO, "%s: unchanged, skipped", name)
            return StageResult(name=name, skipped=True, metrics=entry["metrics"], wall_time_s=entry["wall_time_s"])
        self.folder.mkdir(parents=True, exist_ok=True)
        log.info("%s: started", name)
        started, started_cpu = time.perf_counter(), time.process_time()
        metrics = dict(work())
        wall_time_s, cpu_time_s = time.perf_counter() - started, time.process_time() - started_cpu
        self._record(
            name,
            {
                "fingerprint": fingerprint,
                "config": dict(config),
                "inputs": input_hashes,
                "outputs": {output: path_hash(self.path(output)) for output in outputs},
                "seed": seed,
                "metrics": metrics,
                "wall_time_s": round(wall_time_s, 3),
                "cpu_time_s": round(cpu_time_s, 3),
                "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                **_environment(),
            },
        )
        log.info("%s: done in %.1f s", name, wall_time_s)
        return StageResult(name=name, skipped=False, metrics=metrics, wall_time_s=wall_time_s)

    def _outputs_unchanged(self, entry: Mapping[str, Any]) -> bool:
        try:
            return all(path_hash(self.path(name)) == digest for name, digest in entry["outputs"].items())
        except ArtifactError:
            return False

    def _record(self, name: str, entry: dict[str, Any]) -> None:
        manifest = self.manifest()
        manifest["stages"][name] = entry
        write_json(self.manifest_path, manifest)


def stage_fingerprint(
    config: Mapping[str, Any], input_hashes: Mapping[str, str], seed: int, outputs: Sequence[str]
) -> str:
    """Returns the hash of all that decides a stage's result: a stage whose manifest entry has it is up to date."""
    return text_hash(_canonical(config), _canonical(input_hashes), str(seed), *sorted(outputs))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _environment() -> dict[str, Any]:
    versions = {}
    for package in _REPORTED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({os.cpu_count()} cores)"
    return {"versions": {"python": platform.python_version(), **versions}, "device": device}
