"""What every stage that trains a model has in common: its fingerprint, checkpoints, log, and the folder it leaves.

A training writes nothing but checkpoints until it ends: model and log of the one before stay together until both are
replaced. Knows no losses: the stage brings a function that trains.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itemic.core.config import config_to_mapping
from itemic.core.errors import ConfigError
from itemic.core.files import atomic_path, path_hash, text_hash
from itemic.core.run import Run, StageResult
from itemic.model.sid_model import SidModel
from itemic.train.loop import TrainResult

__all__ = ["TrainingPlace", "run_training_stage"]

log = logging.getLogger("itemic")


@dataclass(frozen=True, kw_only=True)
class TrainingPlace:
    """Where a training keeps what it needs to go on after a kill."""

    folder: Path
    """For checkpoints and the log; removed at the end."""
    log_path: Path
    """JSON lines, in that folder."""
    tracker_folder: Path
    """Where trackers write."""
    fingerprint: str
    """Hash of all that decides the result."""
    seed: int

    def settings(self) -> dict[str, Any]:
        """Returns the arguments of ``loop.train`` beside learner and config."""
        return {
            "folder": self.folder,
            "log_path": self.log_path,
            "tracker_folder": self.tracker_folder,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
        }


def run_training_stage(
    name: str,
    config: Any,
    run: Run,
    inputs: Mapping[str, Path],
    train_model: Callable[[TrainingPlace], tuple[SidModel, TrainResult]],
    *,
    folder: str,
    seed: int,
    force: bool,
) -> StageResult:
    """Trains unless config, inputs and seed are unchanged; leaves ``<folder>model`` and ``<folder><name>.jsonl``.

    Args:
        name: Of the stage.
        config: A dataclass whose field ``training`` is a TrainConfig.
        run: The run folder.
        inputs: Files and folders that are read, by a short name.
        train_model: Trains and returns the model to save, adapters folded in, in evaluation mode.
        folder: Of model and log inside the run, ``rl/`` say; empty for the run itself.
        seed: The run's seed.
        force: Trains even where nothing changed.

    Raises:
        ConfigError: in one of several processes.
    """
    _refuse_several_processes()
    settings = _deciding_settings(config)

    def work() -> dict[str, Any]:
        fingerprint = text_hash(str(settings), str(seed), *(path_hash(path) for path in inputs.values()))
        checkpoints, log_path = run.path(f"checkpoints/{name}"), run.path(f"{folder}{name}.jsonl")
        place = TrainingPlace(
            folder=checkpoints,
            log_path=checkpoints / log_path.name,
            tracker_folder=log_path.parent,
            fingerprint=fingerprint,
            seed=seed,
        )
        _log_settings(name, config, seed)
        _recover_log(place, log_path)
        model, result = train_model(place)
        if result.stop_reason:
            log.warning("%s: stopped at step %s: %s", name, result.num_steps, result.stop_reason)
        with atomic_path(log_path) as temporary:
            # A copy, so that a kill before the end finds the checkpoint's log where it was.
            shutil.copyfile(place.log_path, temporary)
            model.save(run.path(f"{folder}model"))
        shutil.rmtree(checkpoints, ignore_errors=True)
        figures = {
            "num_parameters": sum(parameter.numel() for parameter in model.network.parameters()),
            "num_steps": result.num_steps,
            "best_step": result.best_step,
            "best_valid": result.best_value,
            "num_tokens": result.num_tokens,
            "best_tokens": result.best_tokens,
            "stopped_early": result.stopped_early,
            "train_s": round(result.wall_time_s, 1),
        }
        return figures | _gain(result) | ({"stop_reason": result.stop_reason} if result.stop_reason else {})

    outputs = [f"{folder}model", f"{folder}{name}.jsonl"]
    return run.stage(name, work, config=settings, inputs=inputs, outputs=outputs, seed=seed, force=force)


def _refuse_several_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"WORLD_SIZE {os.environ['WORLD_SIZE']}: the stages write one run folder from one process; the loop itself "
            "(itemic.train.loop) runs data-parallel"
        )


def _recover_log(place: TrainingPlace, log_path: Path) -> None:
    """Puts the log beside a checkpoint that has none, as trainings once left it where the finished log lies."""
    if (place.folder / "last").is_dir() and not place.log_path.exists() and log_path.exists():
        shutil.copyfile(log_path, place.log_path)


def _log_settings(name: str, config: Any, seed: int) -> None:
    """Logs the settings that are not the defaults, so that one kept from an earlier run of the stage is seen."""
    defaults = _flat(config_to_mapping(type(config)()))
    changed = {key: value for key, value in _flat(config_to_mapping(config)).items() if defaults.get(key) != value}
    settings = [*(f"{key}={value}" for key, value in changed.items()), f"seed={seed}"]
    log.info("%s: %s; all else by default", name, ", ".join(settings))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _gain(result: TrainResult) -> dict[str, float]:
    """Returns the validation figures before the first step and of the model that is kept, where there are both."""
    if not result.first_figures:
        return {}
    named = {"before": result.first_figures, "after": result.best_figures}
    return {
        f"valid_{when}_{name.removeprefix('valid_')}": value
        for when, figures in named.items()
        for name, value in figures.items()
    }


def _deciding_settings(config: Any) -> dict[str, Any]:
    """Returns the settings that decide the result: how often a checkpoint is written, and trackers, do not."""
    settings = config_to_mapping(config)
    for name in ("checkpoint_every_s", "trackers"):
        del settings["training"][name]
    return settings
