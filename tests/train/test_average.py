"""The moving average of the parameters against its formula, and through a kill."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from itemic.core.errors import ConfigError
from itemic.train.average import MovingAverage
from itemic.train.loop import LearnerHooks, TrainConfig, TrainResult, train


def test_the_average_follows_its_formula_and_gives_the_parameters_back() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    average = MovingAverage(module, 0.5)
    module.weight.data.fill_(3.0)
    average.update(0)  # decay min(1/2, 1/10): 1/10 of 1 and 9/10 of 3
    assert average.state()["weight"].item() == pytest.approx(28 / 10)
    module.weight.data.fill_(5.0)
    average.update(100)  # decay 1/2
    assert average.state()["weight"].item() == pytest.approx(39 / 10)
    with average.in_place():
        assert module.weight.item() == pytest.approx(39 / 10)
    assert module.weight.item() == 5.0
    average.keep()
    assert module.weight.item() == pytest.approx(39 / 10)


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return ((self.weight - 2) * batch).square().sum()[None]


class LineLearner(LearnerHooks):
    """Remembers the weight that it was validated with; raises at a chosen batch, as a kill would."""

    def __init__(self, die_at: int = 0, *, validates: bool = True) -> None:
        self.module, self.task_names, self.lower_is_better = Line(), ["line"], True
        self.die_at, self.validates, self.num_batches = die_at, validates, 0

    def micro_batches(self, epoch: int) -> list[list[float]]:
        return torch.randn(5, 4, generator=torch.Generator().manual_seed(epoch)).tolist()

    def label_counts(self, batch: list[float]) -> list[int]:
        return [len(batch)]

    def collate(self, batch: list[float], device: torch.device) -> tuple[torch.Tensor, int]:
        self.num_batches += 1
        if self.num_batches == self.die_at:
            raise KeyboardInterrupt
        return torch.tensor(batch, device=device), len(batch)

    def validate(self) -> dict[str, float]:
        return {"valid_loss": float((self.module.weight.detach() - 2).abs())} if self.validates else {}


def run(learner: LineLearner, folder: Path, decay: float) -> TrainResult:
    config = TrainConfig(epochs=3, learning_rate=0.05, device="cpu", checkpoint_every_s=0.0, average_decay=decay)
    return train(learner, config, folder=folder / "ck", log_path=folder / "log.jsonl", fingerprint="f", seed=1)


@pytest.mark.parametrize("die_at", [2, 6, 13])
def test_a_killed_run_goes_on_with_the_same_average(tmp_path: Path, die_at: int) -> None:
    whole, parts = LineLearner(), LineLearner(die_at)
    result = run(whole, tmp_path / "whole", 0.9)
    with pytest.raises(KeyboardInterrupt):
        run(parts, tmp_path / "parts", 0.9)
    again = LineLearner()
    assert run(again, tmp_path / "parts", 0.9).best_value == result.best_value
    assert torch.equal(again.module.weight, whole.module.weight)


def test_the_averaged_weights_are_validated_and_kept_and_the_plain_ones_trained(tmp_path: Path) -> None:
    averaged, plain = LineLearner(), LineLearner()
    values = [run(averaged, tmp_path / "a", 0.9).best_value, run(plain, tmp_path / "p", 0.0).best_value]
    assert values[0] == pytest.approx(2 - averaged.module.weight.item())
    assert values[0] is not None
    assert values[1] is not None
    assert values[0] > values[1], "an average lags behind"
    norms = [
        [line["grad_norm"] for line in map(json.loads, log.read_text().splitlines()) if "grad_norm" in line]
        for log in (tmp_path / "a" / "log.jsonl", tmp_path / "p" / "log.jsonl")
    ]
    assert norms[0] == norms[1], "steps are taken from the weights themselves"


def test_without_validation_the_average_of_the_last_step_is_kept(tmp_path: Path) -> None:
    with_validation, without = LineLearner(), LineLearner(validates=False)
    run(with_validation, tmp_path / "v", 0.9)
    run(without, tmp_path / "w", 0.9)
    assert torch.equal(with_validation.module.weight, without.module.weight)


def test_a_decay_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="average_decay"):
        TrainConfig(average_decay=1.0)
