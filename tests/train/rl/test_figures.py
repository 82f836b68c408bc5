"""Means of micro-batches over a step, and of steps over a line of the log."""

import torch

from itemic.train.rl.figures import RunningFigures


def test_a_step_is_the_mean_of_its_micro_batches_and_a_line_that_of_its_steps() -> None:
    figures = RunningFigures()
    assert figures.end_step() == {}
    figures.add({"reward": torch.tensor(1.0), "entropy": torch.tensor(0.5)})
    figures.add({"reward": torch.tensor(2.0)})
    assert figures.end_step() == {"reward": 1.5, "entropy": 0.5}
    assert figures.end_step() == {}
    figures.add({"entropy": torch.tensor(1.5)})
    assert figures.end_step() == {"entropy": 1.5}
    assert figures.pop() == {"reward": 1.5, "entropy": 1.0}
    assert figures.pop() == {}


def test_formats_mix() -> None:
    figures = RunningFigures()
    figures.add({"a": torch.tensor(1, dtype=torch.float64), "b": torch.tensor(0.5, dtype=torch.bfloat16)})
    assert figures.end_step() == {"a": 1.0, "b": 0.5}


def test_gradients_are_not_kept() -> None:
    figures = RunningFigures()
    weight = torch.ones((), requires_grad=True)
    figures.add({"loss": weight * 2})
    assert figures.end_step() == {"loss": 2.0}


def test_sums_survive_a_checkpoint() -> None:
    whole, before, after = RunningFigures(), RunningFigures(), RunningFigures()
    for value in (0.1, 0.7, 0.3):
        for figures in (whole, before) if value < 0.2 else (whole,):
            figures.add({"kl": torch.tensor(value)})
            figures.end_step()
    after.restore(before.state() | {"other": torch.tensor(3.0)})
    for value in (0.7, 0.3):
        after.add({"kl": torch.tensor(value)})
        after.end_step()
    assert after.pop() == whole.pop()
