"""The one training loop: accumulation, clipping, schedule, validation, early stopping, checkpoints, exact resume.

It runs over accelerate, so one process, several, and mixed precision are the same code. What is learned comes as a
Learner; the loop knows nothing of prompts, items or losses.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from itemic.core.errors import ConfigError
from itemic.core.progress import progress_bar
from itemic.core.schedule import Schedule, learning_rate_factor
from itemic.core.seeds import derive_seed, seed_everything
from itemic.train.accelerator import make_accelerator
from itemic.train.average import MovingAverage
from itemic.train.checkpoint import (
    Progress,
    load_average,
    load_checkpoint,
    load_learner_state,
    load_parameters,
    save_checkpoint,
    save_parameters,
)
from itemic.train.protocol import Learner, LearnerHooks

__all__ = ["Learner", "LearnerHooks", "TrainConfig", "TrainResult", "train"]

log = logging.getLogger("itemic")

Tracker = Literal["tensorboard", "trackio"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to optimise, whatever is learned."""

    epochs: int = 30
    """Passes over the training data."""
    max_steps: int = 0
    """Stops after this many optimiser steps; 0 for no limit. The schedule ends there too."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; 1e-3 suits small decoders, 1e-4 to 3e-4 a pretrained backbone."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: float = 0.05
    """Share of the training over which the learning rate rises."""
    weight_decay: float = 0.05
    """Decay of weight matrices; vectors (norms, biases) never decay."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Moments of AdamW; 0.98 rather than 0.999 follows a short training faster."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them as they are."""
    average_decay: float = 0.0
    """Decay of a moving average of the parameters, which is then what is validated and kept: 0.99 averages about the
    last hundred steps; 0 keeps the parameters themselves."""
    accumulation_steps: int = 1
    """Micro-batches of one optimiser step, in each process."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """Number format of forward and backward; auto is bf16 on CUDA and float32 elsewhere (bf16 is slower on CPUs)."""
    gradient_checkpointing: bool = False
    """Computes activations again in the backward pass, for memory."""
    validate_every_steps: int = 0
    """Steps between validations; 0 validates at the end of each epoch."""
    validate_at_start: bool = False
    """Whether to validate before the first step too, so that a training that only harms keeps what it began with."""
    patience: int = 0
    """Stops after this many validations without a better figure; 0 never stops early."""
    log_every_steps: int = 10
    """Steps between log lines."""
    checkpoint_every_s: float = 120.0
    """Seconds between checkpoints; 0 writes one after every step."""
    trackers: tuple[Tracker, ...] = ()
    """Where to send the log besides the JSON lines; needs the extra ``track``."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``mps``."""

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulation_steps", "log_every_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, found {getattr(self, name)}")
        limits = (
            "max_steps",
            "validate_every_steps",
            "patience",
            "max_grad_norm",
            "checkpoint_every_s",
            "weight_decay",
        )
        for name in limits:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected at least 0, found {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate: expected above 0, found {self.learning_rate}")
        for name in ("warmup", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected a share in [0, 1), found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a training ended."""

    num_steps: int
    """Optimiser steps taken."""
    best_step: int
    """Step whose parameters the module now holds."""
    best_value: float | None
    """Validation figure of that step; None where there is no validation."""
    stopped_early: bool
    wall_time_s: float
    """Seconds of training and validation, over all parts of an interrupted run."""
    stop_reason: str = ""
    """Why the training was given up: what the learner said, or that the loss was not finite; empty where it was not."""
    first_figures: dict[str, float] = field(default_factory=dict)
    """Validation before the first step; empty where there was none."""
    best_figures: dict[str, float] = field(default_factory=dict)
    """Validation of ``best_step``; empty where there is none."""
    num_tokens: int = 0
    """Tokens trained on in all steps, every epoch anew."""
    best_tokens: int = 0
    """Tokens trained on up to ``best_step``: what the parameters that were kept have seen."""


def train(
    learner: Learner,
    config: TrainConfig,
    *,
    folder: Path,
    log_path: Path,
    fingerprint: str,
    seed: int,
    tracker_folder: Path | None = None,
) -> TrainResult:
    """Trains ``learner.module`` in place and leaves it with its best parameters.

    A run that was killed at any moment goes on from its last checkpoint and takes the very same steps, because data
    order and random streams are derived from seed, epoch and step.

    Args:
        learner: What is trained.
        config: How.
        folder: Where checkpoints lie.
        log_path: JSON lines; see ``docs/conventions.md`` for the keys.
        fingerprint: Hash of all that decides the result; a checkpoint with another one is not resumed.
        seed: The run's seed.
        tracker_folder: Where trackers write; None takes the log's folder.

    Raises:
        ConfigError: if loss or gradient are not finite and no validation chose parameters to fall back to, or the
            device or a tracker is not there.
    """
    loop = _Loop(learner, config, folder, log_path, fingerprint, seed, tracker_folder or log_path.parent)
    return loop.run()


class _Loop:
    """State of one training."""

    def __init__(
        self,
        learner: Learner,
        config: TrainConfig,
        folder: Path,
        log_path: Path,
        fingerprint: str,
        seed: int,
        tracker_folder: Path,
    ) -> None:
        self.learner, self.config, self.folder, self.log_path, self.seed = learner, config, folder, log_path, seed
        self.tracker_folder = tracker_folder
        self.accelerator = make_accelerator(config.device, config.mixed_precision, config.trackers, tracker_folder)
        self.device: torch.device = self.accelerator.device
        seed_everything(derive_seed(seed, "train"))
        self.bare_module = learner.module.to(self.device)
        optimizer = torch.optim.AdamW(
            _parameter_groups(self.bare_module, config.weight_decay),
            lr=config.learning_rate,
            betas=config.betas,
            fused=self.device.type in ("cpu", "cuda"),
        )
        resumed = load_checkpoint(folder / "last", self.bare_module, optimizer, fingerprint)
        num_tasks = len(learner.task_names)
        self.progress = resumed or Progress(fingerprint, task_sums=[0.0] * num_tasks, task_counts=[0.0] * num_tasks)
        self.task_sums = torch.tensor(self.progress.task_sums, dtype=torch.float64)
        if not self.accelerator.is_main_process:
            self.task_sums.zero_()  # the main process's sums are in the checkpoint, and logging adds all processes
        self.average = MovingAverage(self.bare_module, config.average_decay) if config.average_decay else None
        self.module, self.optimizer = self.accelerator.prepare(self.bare_module, optimizer)
        if resumed is not None:
            learner.restore(load_learner_state(folder / "last"))
            if self.average is not None:
                self.average.restore(load_average(folder / "last"))
        self.started = time.perf_counter() - self.progress.wall_time_s
        self.last_checkpoint = time.perf_counter()
        self._open_log(resumed is not None)

    def run(self) -> TrainResult:
        """Runs the epochs that are left."""
        progress = self.progress
        # A run that was killed after it was stopped stays stopped.
        stopped_early = self._is_out_of_patience() or bool(self._stop_reason())
        if self.config.validate_at_start and progress.validated_step < 0:
            self._validate()
        with progress_bar("training", total=self._num_steps_estimate()) as advance:
            advance(progress.step, "")
            while progress.epoch < self.config.epochs and not stopped_early and not self._is_over():
                stopped_early = self._run_epoch(advance)
                if stopped_early or self._is_over():
                    break
                progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
        if progress.validated_step < progress.step and not progress.stop_reason:
            self._validate()
        stop_reason = self._stop_reason()  # the last validation may be the one that gives one
        self._checkpoint()
        self.accelerator.wait_for_everyone()
        best_path = self.folder / "best.safetensors"
        if progress.best_value is not None and best_path.is_file():
            load_parameters(best_path, self.bare_module)
        elif self.average is not None:
            self.average.keep()
        self.accelerator.end_training()
        num_processes, has_best = self.accelerator.num_processes, progress.best_value is not None
        return TrainResult(
            num_steps=progress.step,
            best_step=progress.best_step if has_best else progress.step,
            best_value=progress.best_value,
            stopped_early=stopped_early or bool(stop_reason),
            wall_time_s=progress.wall_time_s,
            stop_reason=stop_reason,
            first_figures=progress.first_figures,
            best_figures=progress.best_figures,
            num_tokens=progress.total_tokens * num_processes,
            best_tokens=(progress.best_tokens if has_best else progress.total_tokens) * num_processes,
        )

    def _run_epoch(self, advance: Callable[[int, str], None]) -> bool:
        """Takes the epoch's remaining steps; returns whether patience ran out or the learner asked to stop."""
        progress, config = self.progress, self.config
        steps = self._steps(progress.epoch)
        note = ""
        for index in range(progress.step_in_epoch, len(steps)):
            grad_norm = self._step(steps[index], (progress.epoch + (index + 0.5) / len(steps)) / config.epochs)
            if progress.stop_reason:
                return True
            progress.step += 1
            progress.step_in_epoch = index + 1
            self.learner.after_step()
            if progress.step % config.log_every_steps == 0:
                note = f"loss {self._log_step(grad_norm, progress.epoch + (index + 1) / len(steps)):.4f}"
            advance(1, note)
            is_last = index + 1 == len(steps)
            every = config.validate_every_steps
            due = progress.step % every == 0 if every else is_last
            out_of_patience = due and self._validate()
            if out_of_patience or self._stop_reason():
                return True
            if time.perf_counter() - self.last_checkpoint >= config.checkpoint_every_s:
                self._checkpoint()
            if self._is_over():
                break
        return False

    def _step(self, batches: Sequence[Any], progress: float) -> float:
        """Takes one optimiser step over the given micro-batches of all processes; returns the gradient norm.

        A step whose loss or gradient is not finite is not taken: see ``_give_up``.
        """
        accelerator, config = self.accelerator, self.config
        if config.max_steps:
            progress = max(progress, (self.progress.step + 0.5) / config.max_steps)
        rate = config.learning_rate * learning_rate_factor(progress, config.schedule, config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        counts = torch.tensor([self.learner.label_counts(batch) for batch in batches], dtype=torch.float64).sum(0)
        torch.manual_seed(derive_seed(self.seed, "step", self.progress.step, accelerator.process_index))
        mine = batches[accelerator.process_index :: accelerator.num_processes]
        with accelerator.autocast():
            self.learner.before_step(mine, self.device)
        self.module.train()
        share = accelerator.num_processes / float(counts.sum())
        sums, tokens = [], 0
        for index in range(-(-len(batches) // accelerator.num_processes)):
            # A process without a batch of its own takes part in the gradient exchange with a weight of nothing.
            batch, weight = (mine[index], share) if index < len(mine) else (batches[0], 0.0)
            is_last = (index + 1) * accelerator.num_processes >= len(batches)
            found, num_tokens = self._backward(batch, weight, is_last=is_last)
            if weight:
                sums.append(found)
                tokens += num_tokens
        norm = accelerator.clip_grad_norm_(self.module.parameters(), config.max_grad_norm or math.inf)
        losses = torch.stack(sums).cpu().double() if sums else torch.zeros(0)
        broken = self._broken(losses, float(norm))
        if not broken:
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.progress.step)
        self.optimizer.zero_grad()
        if broken:
            self._give_up(broken)
            return float(norm)
        for loss in losses:
            self.task_sums += loss
        self.progress.tokens += tokens
        self.progress.total_tokens += tokens
        self.progress.task_counts = [
            before + now for before, now in zip(self.progress.task_counts, counts.tolist(), strict=True)
        ]
        return float(norm)

    def _backward(self, batch: Any, weight: float, *, is_last: bool) -> tuple[Tensor, int]:
        """Returns the losses of each task, and the number of tokens."""
        tensors, num_tokens = self.learner.collate(batch, self.device)
        if is_last:
            sums = self.module(tensors)
            self.accelerator.backward(sums.sum() * weight)
        else:
            with self.accelerator.no_sync(self.module):
                sums = self.module(tensors)
                self.accelerator.backward(sums.sum() * weight)
        return sums.detach(), num_tokens

    def _broken(self, losses: Tensor, norm: float) -> str:
        """Returns what is not finite, in all processes alike; empty where everything is."""
        # Parameters stay what they were: one step of an infinite gradient makes all of them NaN.
        flags = torch.tensor([not losses.isfinite().all(), not math.isfinite(norm)], device=self.device)
        loss, gradient = self.accelerator.reduce(flags.float(), reduction="sum").tolist()
        return "loss" if loss else "gradient" if gradient else ""

    def _give_up(self, broken: str) -> None:
        """Ends the training with the best parameters so far.

        Raises:
            ConfigError: if no validation has chosen any.
        """
        reason = f"the {broken} is not finite at step {self.progress.step + 1}: lower learning_rate or max_grad_norm"
        if self.progress.best_value is None:
            raise ConfigError(reason)
        self.progress.stop_reason = reason

    def _stop_reason(self) -> str:
        return self.progress.stop_reason or self.learner.reason_to_stop()

    def _validate(self) -> bool:
        """Logs the validation figures and keeps the best parameters; returns whether patience ran out."""
        with self.average.in_place() if self.average is not None else contextlib.nullcontext():
            has_gained = self._validate_as_is()
        if has_gained:
            self._checkpoint()  # so that the best figure and the best parameters are always of one step
        return self._is_out_of_patience()

    def _validate_as_is(self) -> bool:
        """Validates the parameters that the module holds; returns whether they are the best so far and were kept."""
        progress = self.progress
        self.bare_module.eval()
        with torch.no_grad():
            figures = self._on_main(self.learner.validate)
        progress.validated_step = progress.step
        if not figures:
            return False
        self._write({"step": progress.step, **{name: round(value, 6) for name, value in figures.items()}})
        if progress.step == 0:
            progress.first_figures = figures
        value = next(iter(figures.values()))
        best = progress.best_value
        if best is None or (value < best if self.learner.lower_is_better else value > best):
            progress.best_value, progress.best_step, progress.num_without_gain = value, progress.step, 0
            progress.best_figures, progress.best_tokens = figures, progress.total_tokens
            if self.accelerator.is_main_process:
                save_parameters(self.folder / "best.safetensors", self.bare_module)
            return True
        progress.num_without_gain += 1
        return False

    def _checkpoint(self) -> None:
        progress = self.progress
        progress.wall_time_s = time.perf_counter() - self.started
        progress.task_sums = self.task_sums.tolist()
        if self.accelerator.is_main_process:
            progress.log_bytes = self.log_path.stat().st_size
            state, average = self.learner.state(), self.average.state() if self.average is not None else None
            save_checkpoint(self.folder / "last", self.bare_module, self.optimizer.optimizer, progress, state, average)
        self.last_checkpoint = time.perf_counter()

    def _log_step(self, grad_norm: float, epoch: float) -> float:
        """Writes a log line with the losses since the last one; returns the total loss."""
        progress = self.progress
        sums = self.accelerator.reduce(self.task_sums.to(self.device, torch.float32), reduction="sum").tolist()
        counts = progress.task_counts
        loss = sum(sums) / max(1.0, sum(counts))
        by_task = {
            f"loss/{name}": round(total / count, 6)
            for name, total, count in zip(self.learner.task_names, sums, counts, strict=True)
            if count
        }
        wall_time_s = time.perf_counter() - self.started
        line = {
            "step": progress.step,
            "epoch": round(epoch, 4),
            "loss": round(loss, 6),
            **by_task,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "grad_norm": round(grad_norm, 4),
            **{name: round(value, 6) for name, value in self.learner.pop_figures().items()},
            "tokens": progress.tokens * self.accelerator.num_processes,
            "wall_time_s": round(wall_time_s, 2),
        }
        self._write(line)
        self.task_sums.zero_()
        progress.task_counts, progress.tokens = [0.0] * len(counts), 0
        return float(loss)

    def _write(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.accelerator.log({name: value for name, value in line.items() if name != "step"}, step=line["step"])

    def _open_log(self, resumed: bool) -> None:
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            with self.log_path.open("ab") as file:
                file.truncate(self.progress.log_bytes)
            if resumed:
                log.info("resuming at step %s (epoch %s)", self.progress.step, self.progress.epoch)
            else:
                (self.folder / "best.safetensors").unlink(missing_ok=True)
        if self.config.trackers:
            self.accelerator.init_trackers(f"{self.tracker_folder.name}-{self.log_path.stem}")
        self.accelerator.wait_for_everyone()

    def _steps(self, epoch: int) -> list[Sequence[Any]]:
        batches = self.learner.micro_batches(epoch)
        size = self.config.accumulation_steps * self.accelerator.num_processes
        return [batches[start : start + size] for start in range(0, len(batches), size)]

    def _num_steps_estimate(self) -> int:
        steps = len(self._steps(0)) * self.config.epochs
        return min(steps, self.config.max_steps) if self.config.max_steps else steps

    def _on_main(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Returns what the main process finds, to all of them, so that they decide alike."""
        found = [work() if self.accelerator.is_main_process else {}]
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(found)
        return found[0]

    def _is_out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.num_without_gain

    def _is_over(self) -> bool:
        return 0 < self.config.max_steps <= self.progress.step


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.dim() >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]
