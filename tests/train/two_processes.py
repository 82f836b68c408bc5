"""Trains a line in this process or, under torchrun, in several: ``two_processes.py FOLDER ACCUMULATION``."""

import sys
from pathlib import Path

import torch
from torch import nn

from itemic.train.loop import LearnerHooks, TrainConfig, train


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return (batch["x"] * self.weight[0, 0] - 2 * batch["x"]).square().sum()[None]


class LineLearner(LearnerHooks):
    def __init__(self) -> None:
        self.module, self.task_names, self.lower_is_better = Line(), ["line"], True

    def micro_batches(self, epoch: int) -> list[list[float]]:
        return torch.randn(11, 4, generator=torch.Generator().manual_seed(epoch)).tolist()

    def label_counts(self, batch: list[float]) -> list[int]:
        return [len(batch)]

    def collate(self, batch: list[float], device: torch.device) -> tuple[dict[str, torch.Tensor], int]:
        return {"x": torch.tensor(batch, device=device)}, len(batch)

    def validate(self) -> dict[str, float]:
        return {"valid_loss": float((self.module.weight.detach() - 2).abs())}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = TrainConfig(
        epochs=3,
        learning_rate=0.05,
        device="cpu",
        log_every_steps=2,
        checkpoint_every_s=0.0,
        accumulation_steps=int(sys.argv[2]),
    )
    train(LineLearner(), config, folder=folder / "ck", log_path=folder / "log.jsonl", fingerprint="f", seed=1)
