"""Everything a training run needs to go on as if it had never stopped, in one folder that is replaced atomically.

Tensors are safetensors and counters JSON, never pickle. Only parameters that train are kept: a frozen backbone comes
from where it came from at first. Knows nothing of what is trained.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from itemic.core.errors import ArtifactError
from itemic.core.files import atomic_folder, atomic_path, read_json, recover_folder, write_json

log = logging.getLogger("itemic")

__all__ = [
    "Progress",
    "load_average",
    "load_checkpoint",
    "load_learner_state",
    "load_parameters",
    "save_checkpoint",
    "save_parameters",
]

_LEARNER = "learner.safetensors"
_AVERAGE = "average.safetensors"


@dataclass
class Progress:
    """Where a training run stands."""

    fingerprint: str
    """Hash of config, inputs and seed: a checkpoint of another run is not resumed."""
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    """Optimiser steps taken."""
    validated_step: int = -1
    """Step of the last validation, so that a resumed run does not repeat it."""
    best_value: float | None = None
    """Best validation figure so far."""
    best_step: int = 0
    best_figures: dict[str, float] = field(default_factory=dict)
    """All figures of that validation."""
    first_figures: dict[str, float] = field(default_factory=dict)
    """Validation before the first step; empty where there was none."""
    num_without_gain: int = 0
    """Validations since the best one."""
    stop_reason: str = ""
    """What was not finite, so that a run that is started again does not die again; empty where all was."""
    wall_time_s: float = 0.0
    """Seconds trained, over all parts of an interrupted run."""
    log_bytes: int = 0
    """Length of the log that belongs to this point; what follows is of steps that will be taken again."""
    task_sums: list[float] = field(default_factory=list)
    """Loss since the last log line, by task, and the matching label counts, so that the curve has no seam."""
    task_counts: list[float] = field(default_factory=list)
    tokens: int = 0
    """Tokens since the last log line."""
    total_tokens: int = 0
    """Tokens of all steps taken, in this process."""
    best_tokens: int = 0
    """Those of them up to ``best_step``."""


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    learner_state: Mapping[str, Tensor] | None = None,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes parameters, optimiser state, counters, what the learner has to keep beside them, and averaged parameters.

    Random streams are derived from the step, so none is kept.
    """
    with atomic_folder(folder) as temporary:
        save_file(_trained(module), temporary / "parameters.safetensors")
        tensors, rest = _flatten_optimizer(optimizer)
        save_file(tensors, temporary / "optimizer.safetensors", metadata={"groups": rest})
        for file, state in ((_LEARNER, learner_state), (_AVERAGE, average)):
            if state:
                save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, temporary / file)
        write_json(temporary / "progress.json", asdict(progress))


def load_learner_state(folder: Path) -> dict[str, Tensor]:
    """Returns what the learner kept in a checkpoint; nothing where it kept nothing."""
    path = folder / _LEARNER
    return load_file(path) if path.is_file() else {}


def load_average(folder: Path) -> dict[str, Tensor]:
    """Returns the averaged parameters of a checkpoint; nothing where none were kept."""
    path = folder / _AVERAGE
    return load_file(path) if path.is_file() else {}


def load_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> Progress | None:
    """Restores all of it in place; returns None where there is no checkpoint of this very run.

    Raises:
        ArtifactError: if the checkpoint is of this run but its parameters are not the model's.
    """
    recover_folder(folder)
    if not (folder / "progress.json").is_file():
        return None
    progress = Progress(**read_json(folder / "progress.json"))
    if progress.fingerprint != fingerprint:
        log.warning(
            "%s: of other settings, seed or data, and a training goes on only with the flags that it began with; it "
            "starts over",
            folder,
        )
        return None
    load_parameters(folder / "parameters.safetensors", module)
    _restore_optimizer(folder / "optimizer.safetensors", optimizer)
    return progress


def save_parameters(path: Path, module: nn.Module) -> None:
    """Writes the parameters that train, atomically."""
    with atomic_path(path) as temporary:
        save_file(_trained(module), temporary)


def load_parameters(path: Path, module: nn.Module) -> None:
    """Restores the parameters that train, in place.

    Raises:
        ArtifactError: if the names differ.
    """
    saved = load_file(path)
    current = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if saved.keys() != current.keys():
        different = sorted(saved.keys() ^ current.keys())
        raise ArtifactError(f"{path}: not of this model; parameter {different[0]} is only on one side")
    with torch.no_grad():
        for name, parameter in current.items():
            parameter.copy_(saved[name])


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], str]:
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value.detach().cpu().clone()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, json.dumps(state["param_groups"])


def _restore_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups: list[Mapping[str, Any]] = json.loads(_metadata(path)["groups"])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())
