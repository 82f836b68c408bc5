"""The loop: killed and resumed, accumulated and not, early stopping, bad settings."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from itemic.core.errors import ArtifactError, ConfigError
from itemic.train.checkpoint import load_parameters, save_parameters
from itemic.train.loop import LearnerHooks, TrainConfig, TrainResult, train


class Line(nn.Module):
    """Fits y = 2x with dropout, so that a random stream that is not restored shows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.drop = nn.Dropout(0.3)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        error = self.drop(batch["x"]) * self.weight[0, 0] - 2 * batch["x"]
        return error.square().sum()[None]


class LineLearner(LearnerHooks):
    def __init__(self, die_at: int = 0, valid: list[float] | None = None) -> None:
        self.module, self.task_names, self.lower_is_better = Line(), ["line"], True
        self.die_at, self.valid, self.num_batches = die_at, valid, 0
        self.reason, self.calls = "", list[str]()

    def after_step(self) -> None:
        self.calls.append("after_step")

    def pop_figures(self) -> dict[str, float]:
        self.calls.append("pop_figures")
        return {}

    def reason_to_stop(self) -> str:
        return self.reason

    def micro_batches(self, epoch: int) -> list[list[float]]:
        generator = torch.Generator().manual_seed(epoch)
        return torch.randn(10, 4, generator=generator).tolist()

    def label_counts(self, batch: list[float]) -> list[int]:
        return [len(batch)]

    def collate(self, batch: list[float], device: torch.device) -> tuple[dict[str, torch.Tensor], int]:
        self.num_batches += 1
        if self.num_batches == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"x": torch.tensor(batch, device=device)}, len(batch)

    def validate(self) -> dict[str, float]:
        if self.valid is not None:
            return {"valid_loss": self.valid.pop(0)}
        return {"valid_loss": float((self.module.weight.detach() - 2).abs())}


def run(learner: LineLearner, folder: Path, **settings: object) -> TrainResult:
    config = TrainConfig(
        **{"epochs": 3, "learning_rate": 0.05, "device": "cpu", "log_every_steps": 2, "checkpoint_every_s": 0.0}
        | settings  # type: ignore[arg-type]
    )
    return train(learner, config, folder=folder / "ck", log_path=folder / "log.jsonl", fingerprint="f", seed=1)


def curve(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "wall_time_s"} for line in lines]


@pytest.mark.parametrize("die_at", [1, 7, 10, 23])
def test_a_run_killed_at_any_moment_resumes_to_the_same_curve(tmp_path: Path, die_at: int) -> None:
    whole = LineLearner()
    run(whole, tmp_path / "whole")
    process = multiprocessing.get_context("fork").Process(target=run, args=(LineLearner(die_at), tmp_path / "killed"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    resumed = LineLearner()
    run(resumed, tmp_path / "killed")
    assert resumed.num_batches == 30 - max(0, die_at - 1)
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert torch.equal(resumed.module.weight, whole.module.weight)


def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path: Path) -> None:
    run(LineLearner(), tmp_path, max_steps=5)
    learner = LineLearner()
    config = TrainConfig(epochs=1, device="cpu")
    train(learner, config, folder=tmp_path / "ck", log_path=tmp_path / "log.jsonl", fingerprint="other", seed=1)
    assert learner.num_batches == 10
    assert curve(tmp_path)[0]["step"] == 10


@pytest.mark.parametrize("log_every_steps", [1, 7, 1000])
def test_tokens_are_counted_to_the_last_step_however_often_is_logged(tmp_path: Path, log_every_steps: int) -> None:
    """A step has four tokens, and an epoch ten steps."""
    learner = LineLearner(valid=[3.0, 1.0, 2.0])
    result = run(learner, tmp_path, log_every_steps=log_every_steps, checkpoint_every_s=1000.0)
    assert (result.num_steps, result.num_tokens) == (30, 120)
    assert (result.best_step, result.best_tokens) == (20, 80)
    unjudged = run(LineLearner(), tmp_path / "limited", max_steps=7, log_every_steps=log_every_steps)
    assert (unjudged.num_tokens, unjudged.best_tokens) == (28, 28)


def test_tokens_of_a_killed_run_are_counted_once(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=run, args=(LineLearner(17), tmp_path), kwargs={"checkpoint_every_s": 1000.0}
    )
    process.start()
    process.join()
    assert run(LineLearner(), tmp_path).num_tokens == 120


def test_accumulation_takes_fewer_and_larger_steps(tmp_path: Path) -> None:
    learner = LineLearner()
    assert run(learner, tmp_path, accumulation_steps=4).num_steps == 9
    assert learner.num_batches == 30


def test_max_steps_ends_the_training(tmp_path: Path) -> None:
    assert run(LineLearner(), tmp_path, max_steps=7).num_steps == 7


def test_the_best_parameters_are_kept_and_patience_ends_the_training(tmp_path: Path) -> None:
    learner = LineLearner(valid=[3.0, 1.0, 2.0, 2.5, 0.0])
    result = run(learner, tmp_path, epochs=5, patience=2)
    assert result.stopped_early
    assert (result.best_step, result.best_value, result.num_steps) == (20, 1.0, 40)
    until_best = LineLearner(valid=[3.0, 1.0])
    run(until_best, tmp_path / "until_best", epochs=5, max_steps=20, schedule="constant", warmup=0.0)
    again = LineLearner(valid=[3.0, 1.0, 2.0, 2.5])
    run(again, tmp_path / "again", epochs=5, patience=2, schedule="constant", warmup=0.0)
    assert torch.equal(again.module.weight, until_best.module.weight)


def test_a_loss_that_is_no_number_stops_with_a_remedy(tmp_path: Path) -> None:
    learner = LineLearner()
    with torch.no_grad():
        learner.module.weight.fill_(float("nan"))
    with pytest.raises(ConfigError, match="loss is not finite at step 1: lower learning_rate"):
        run(learner, tmp_path)


class Break(torch.autograd.Function):
    """What it is given, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.inf


class BrokenLine(Line):
    """From one micro-batch on its loss is not finite, or its gradient alone."""

    def __init__(self, broken: str, first: int) -> None:
        super().__init__()
        self.broken, self.first, self.seen = broken, first, 0

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = super().forward(batch)
        self.seen += 1
        if self.seen < self.first:
            return loss
        return Break.apply(loss) if self.broken == "gradient" else loss + torch.inf


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_numbers_that_are_not_finite_never_reach_the_parameters(tmp_path: Path, broken: str) -> None:
    learner = LineLearner()
    learner.module = BrokenLine(broken, 4)
    with pytest.raises(ConfigError, match=f"the {broken} is not finite at step 2: lower learning_rate"):
        run(learner, tmp_path, accumulation_steps=2)
    assert learner.module.weight.isfinite().all()
    assert learner.module.weight != 0


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_numbers_that_are_not_finite_leave_the_best_parameters_and_a_reason(tmp_path: Path, broken: str) -> None:
    settings = {"epochs": 5, "validate_at_start": True, "schedule": "constant", "warmup": 0.0}
    learner = LineLearner(valid=[3.0, 1.0, 2.0])
    learner.module = BrokenLine(broken, 26)
    result = run(learner, tmp_path / "broken", **settings)
    assert result.stop_reason == f"the {broken} is not finite at step 26: lower learning_rate or max_grad_norm"
    assert (result.num_steps, result.best_step, result.stopped_early) == (25, 10, True)
    assert (result.first_figures, result.best_figures) == ({"valid_loss": 3.0}, {"valid_loss": 1.0})
    until_best = LineLearner(valid=[3.0, 1.0])
    run(until_best, tmp_path / "until_best", max_steps=10, **settings)
    assert torch.equal(learner.module.weight, until_best.module.weight)
    again = LineLearner(valid=[])
    rerun = run(again, tmp_path / "broken", **settings)
    assert replace(rerun, wall_time_s=result.wall_time_s) == result
    assert again.num_batches == 0, "a run that is started again does not die again"
    assert torch.equal(again.module.weight, learner.module.weight)


class SoonEnough(LineLearner):
    """Asks to stop because of what its last validation shows."""

    def validate(self) -> dict[str, float]:
        self.reason = "enough" if self.num_batches == 7 else ""
        return super().validate()


def test_a_reason_that_the_last_validation_gives_is_told(tmp_path: Path) -> None:
    result = run(SoonEnough(), tmp_path, max_steps=7)
    assert (result.stop_reason, result.stopped_early, result.num_steps) == ("enough", True, 7)


def test_a_step_is_shown_once_and_before_its_figures_are_asked_for(tmp_path: Path) -> None:
    learner = LineLearner()
    run(learner, tmp_path, max_steps=4, checkpoint_every_s=1000.0)
    assert learner.calls == ["after_step", "after_step", "pop_figures"] * 2


def test_parameters_of_another_model_are_refused(tmp_path: Path) -> None:
    save_parameters(tmp_path / "p.safetensors", nn.Linear(1, 1))
    with pytest.raises(ArtifactError, match="not of this model"):
        load_parameters(tmp_path / "p.safetensors", Line())


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("max_steps", -1), ("learning_rate", 0.0), ("warmup", 1.0), ("checkpoint_every_s", -1.0)],
)
def test_impossible_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


def test_a_run_killed_after_patience_ran_out_does_not_train_on(tmp_path: Path) -> None:
    run(LineLearner(valid=[3.0, 1.0, 2.0, 2.5]), tmp_path, epochs=5, patience=2)
    again = LineLearner(valid=[])
    result = run(again, tmp_path, epochs=5, patience=2)
    assert again.num_batches == 0
    assert (result.num_steps, result.best_step, result.stopped_early) == (40, 20, True)


def test_sparse_checkpoints_leave_no_seam_in_the_log(tmp_path: Path) -> None:
    run(LineLearner(), tmp_path / "whole", checkpoint_every_s=1000.0)
    process = multiprocessing.get_context("fork").Process(
        target=run, args=(LineLearner(17), tmp_path / "killed"), kwargs={"checkpoint_every_s": 1000.0}
    )
    process.start()
    process.join()
    run(LineLearner(), tmp_path / "killed", checkpoint_every_s=1000.0)
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_share_the_curve_of_one_that_accumulates(tmp_path: Path) -> None:
    program = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(tmp_path / "two"), "1"], check=True, env=environment, capture_output=True, timeout=120
    )
    single = [sys.executable, str(program), str(tmp_path / "one"), "2"]
    subprocess.run(single, check=True, env=environment, capture_output=True, timeout=120)
    two, one = curve(tmp_path / "two"), curve(tmp_path / "one")
    assert [line["step"] for line in two] == [line["step"] for line in one]
    for mine, theirs in zip(two, one, strict=True):
        assert mine.get("loss", 0) == pytest.approx(theirs.get("loss", 0), rel=1e-5)
        assert mine.get("valid_loss", 0) == pytest.approx(theirs.get("valid_loss", 0), rel=1e-5)
