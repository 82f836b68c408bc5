"""The ledger of a study: which of its runs are done, with which figures, in ``study.json``; knows no kind of study.

A run that ends is entered at once, so a study that was killed goes on where it stood. A run that fails is entered with
its error and does not stop the others; the next call tries it again.
"""

import datetime
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itemic.core.config import config_to_mapping
from itemic.core.errors import ArtifactError, ConfigError, ItemicError
from itemic.core.files import path_hash, read_json, text_hash, write_json
from itemic.core.run import Run
from itemic.recipe import Recipe
from itemic.train.rl.rewards.custom import custom_files

__all__ = ["Ledger", "Outcome", "Trial", "recipe_fingerprint"]

log = logging.getLogger("itemic")

_LEDGER_NAME = "study.json"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a study."""

    name: str
    """Unique in the study, and the run's folder in ``runs/``."""
    fingerprint: str
    """Hash of all that decides its figures: one that is done is not run again while this is the same."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it stands for, as plain values: kept beside its figures."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a trial."""

    trial: Trial
    figures: Mapping[str, Any] | None
    """Plain values; None where it failed."""
    error: str = ""
    """Why it failed."""
    wall_time_s: float = 0.0
    """Seconds it took, those before a kill not counted."""


class Ledger:
    """A study's folder with ``study.json`` and a run folder for each trial."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Opens the folder, which need not be there yet.

        Args:
            folder: Of the study.
            kind: Of study: ``ablation`` say.

        Raises:
            ConfigError: if the folder holds another kind of study, or something that is no study.
        """
        self.folder, self.kind = folder, kind
        path = folder / _LEDGER_NAME
        if path.is_file():
            found = read_json(path)
            if not isinstance(found, dict) or not isinstance(found.get("trials"), dict):
                raise ArtifactError(f"{path}: no ledger of a study")
            if found.get("kind") != kind:
                raise ConfigError(f"{folder}: holds the study {found.get('kind')!r}, not {kind!r}; take another folder")
            self._entries: dict[str, Any] = found["trials"]
        elif folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"{folder}: is not empty and holds no {_LEDGER_NAME}; take another folder")
        else:
            self._entries = {}

    def run_folder(self, name: str) -> Path:
        """Returns the run folder of a trial."""
        return self.folder / "runs" / name

    def run_all(self, trials: Sequence[Trial], work: Callable[[Trial], Mapping[str, Any]]) -> list[Outcome]:
        """Runs the trials in order, but for those that are done, and returns what came of each.

        Args:
            trials: What to run; entries of trials that are not among them stay in the ledger untouched.
            work: Runs one and returns its figures, plain values that JSON can write.

        Raises:
            ConfigError: if two trials have one name.
        """
        names = [trial.name for trial in trials]
        if len(set(names)) < len(names):
            raise ConfigError(f"two runs of the study are called {max(names, key=names.count)!r}")
        return [self._run(trial, work, f"run {place} of {len(trials)}") for place, trial in enumerate(trials, start=1)]

    def is_done(self, trial: Trial) -> bool:
        """Returns whether the trial has its figures, from the same settings."""
        entry = self._entries.get(trial.name, {})
        return bool(entry.get("status") == "done" and entry.get("fingerprint") == trial.fingerprint)

    def _run(self, trial: Trial, work: Callable[[Trial], Mapping[str, Any]], place: str) -> Outcome:
        if self.is_done(trial):
            log.info("%s: %s is done", place, trial.name)
            entry = self._entries[trial.name]
            return Outcome(trial=trial, figures=entry["figures"], wall_time_s=entry["wall_time_s"])
        log.info("%s: %s", place, trial.name)
        started = time.perf_counter()
        error, figures = "", None
        try:
            figures = dict(work(trial))
        except ItemicError as caught:
            error = str(caught)
            log.error("%s failed: %s", trial.name, error)
        except Exception as caught:  # whatever went wrong in one run, the others may still answer the question
            error = f"{type(caught).__name__}: {caught}"
            log.exception("%s failed", trial.name)
        wall_time_s = round(time.perf_counter() - started, 3)
        self._entries[trial.name] = {
            "status": "failed" if figures is None else "done",
            "fingerprint": trial.fingerprint,
            "facts": dict(trial.facts),
            "figures": figures,
            "error": error,
            "wall_time_s": wall_time_s,
            "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_json(self.folder / _LEDGER_NAME, {"kind": self.kind, "trials": self._entries})
        return Outcome(trial=trial, figures=figures, error=error, wall_time_s=wall_time_s)


def recipe_fingerprint(recipe: Recipe, *more: str) -> str:
    """Returns the hash of a recipe, where its run lies left aside, and of what it reads from elsewhere.

    That is the source's files, given vectors, folders of an encoder or a backbone, modules of rewards, and what other
    runs in a blend have made.

    Args:
        recipe: What a trial runs.
        more: Whatever else decides its figures.

    Raises:
        ArtifactError: if a file is missing.
        ConfigError: if a reward cannot be imported.
    """
    settings = {key: value for key, value in config_to_mapping(recipe).items() if key not in ("run", "report")}
    files = [path_hash(path) for path in _files(recipe)]
    return text_hash(json.dumps(settings, sort_keys=True), *files, *_other_runs(recipe), *more)


def _files(recipe: Recipe) -> list[Path]:
    """Returns files and folders outside the run that a recipe's stages read."""
    source = [path for _, path in sorted(recipe.prepare.source.files().items())]
    given = [Path(name) for name in (recipe.embed.vectors, recipe.embed.vector_ids) if name]
    # A name that is no folder is a package's or a hub's, and says itself what it is.
    named = [recipe.embed.encoder, *(part.backbone for part in (recipe.align, recipe.sft) if part is not None)]
    folders = [folder for folder in (Path(name).expanduser() for name in named if name) if folder.is_dir()]
    rewards = recipe.rl.rewards if recipe.rl is not None and recipe.rl.objective == "grpo" else {}
    return [*source, *given, *folders, *(path for _, path in sorted(custom_files(rewards).items()))]


def _other_runs(recipe: Recipe) -> list[str]:
    """Returns what each run in a blend has made, by the hashes in its manifest."""
    stages = [Run(folder).manifest()["stages"] for folder in (recipe.blend.runs if recipe.blend is not None else ())]
    made = [{name: entry["outputs"] for name, entry in of_run.items()} for of_run in stages]
    return [json.dumps(outputs, sort_keys=True) for outputs in made]
