"""How TIGER learns: every example of the train split once an epoch; valid chooses the epoch and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from itemic.baselines.best_epoch import VALID_CUTOFF, BestEpoch
from itemic.baselines.tiger.config import TIGERConfig
from itemic.baselines.tiger.network import TigerNetwork
from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.core.progress import progress_bar
from itemic.core.ranking import Histories
from itemic.core.schedule import learning_rate_factor

__all__ = ["Examples", "train", "training_loss"]


@dataclass(frozen=True, eq=False)
class Examples:
    """Histories one after the other in a flat array, and the item that follows each."""

    item: Int[np.ndarray, "I"]
    """Item indices of all histories, each oldest first."""
    end: Int[np.ndarray, "E"]
    """Place in ``item`` behind each history's newest."""
    length: Int[np.ndarray, "E"]
    """Items of each history that are read."""
    target: Int[np.ndarray, "E"]
    """Item index that follows."""

    @classmethod
    def from_dataset(cls, dataset: Dataset, max_history: int) -> "Examples":
        """Returns the examples of the train split, of each history the newest items.

        Raises:
            DataError: if there is none to learn from.
        """
        if dataset.train.is_empty():
            raise DataError("the dataset has no training interactions to fit a baseline to")
        length = dataset.train["history"].list.len().cast(int).to_numpy()
        item = dataset.train["history"].explode(empty_as_null=False).to_numpy()
        return cls(item, np.cumsum(length), np.minimum(length, max_history), dataset.train["target"].to_numpy())

    @classmethod
    def from_histories(cls, histories: Histories, max_history: int) -> "Examples":
        """Returns examples without a target, of each history the newest items."""
        newest = [np.asarray(history[-max_history:], dtype=np.int64) for history in histories]
        length = np.array([len(history) for history in newest], dtype=np.int64)
        item = np.concatenate([np.empty(0, dtype=np.int64), *newest])
        return cls(item, np.cumsum(length), length, np.full(len(newest), -1))

    def batches(self, batch_size: int, rng: np.random.Generator) -> list[Int[np.ndarray, "b"]]:
        """Returns the examples in random batches, alike in length within each."""
        shuffled = rng.permutation(len(self.end))
        by_length = shuffled[np.argsort(self.length[shuffled], kind="stable")]
        parts = np.split(by_length, range(batch_size, len(by_length), batch_size))
        return [parts[index] for index in rng.permutation(len(parts))]

    def load(self, rows: Int[np.ndarray, "b"], codes: Int[Tensor, "N L"]) -> tuple[Tensor, Tensor]:
        """Returns codes (b, T, L) of some histories, padded on the left, and which of the b x T places are items.

        Args:
            rows: Numbers of the examples.
            codes: Semantic IDs of all items, on the device where they are wanted.
        """
        longest = int(self.length[rows].max())
        age = np.arange(longest, 0, -1)
        is_item = age <= self.length[rows, None]
        item = self.item[np.where(is_item, self.end[rows, None] - age, 0)] if longest else np.zeros((len(rows), 0), int)
        return codes[torch.from_numpy(item).to(codes.device)], torch.from_numpy(is_item).to(codes.device)


def train(
    network: TigerNetwork,
    examples: Examples,
    codes: Int[Tensor, "N L"],
    config: TIGERConfig,
    rng: np.random.Generator,
    valid_ndcg: Callable[[], float] | None,
) -> None:
    """Trains the network in place and leaves it with the weights of the epoch that was best on valid.

    Args:
        network: On its device.
        examples: Of the train split.
        codes: Semantic IDs of all items, on the network's device.
        config: Settings.
        rng: Draws the batches.
        valid_ndcg: Returns NDCG@10 on valid as the network is; None where there is no valid split: the last epoch's
            weights are kept.
    """
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    best = BestEpoch(network, config.patience)
    num_batches = -(-len(examples.end) // config.batch_size)
    with progress_bar("fitting TIGER, steps", total=config.max_epochs * num_batches) as advance:
        for epoch in range(config.max_epochs):
            network.train()
            for number, rows in enumerate(examples.batches(config.batch_size, rng)):
                progress = (epoch + (number + 0.5) / num_batches) / config.max_epochs
                _set_learning_rate(optimizer, config, progress)
                target = codes[torch.from_numpy(examples.target[rows]).to(codes.device)]
                loss = training_loss(network, *examples.load(rows, codes), target, config.label_smoothing)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                advance(
                    1,
                    f"epoch {epoch + 1}, best valid NDCG@{VALID_CUTOFF} {best.figure:.4f}" if best.figure >= 0 else "",
                )
            network.eval()
            if valid_ndcg is not None and best.offer(valid_ndcg(), epoch):
                break
    best.restore()


def training_loss(
    network: TigerNetwork,
    codes: Int[Tensor, "b T L"],
    is_item: Bool[Tensor, "b T"],
    target: Int[Tensor, "b L"],
    label_smoothing: float,
) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy of the targets' codes, each over the codes of its level."""
    logits = network(codes, is_item, target)
    losses = [
        functional.cross_entropy(of_level, target[:, level], label_smoothing=label_smoothing)
        for level, of_level in enumerate(logits)
    ]
    return torch.stack(losses).mean()


def _set_learning_rate(optimizer: torch.optim.Optimizer, config: TIGERConfig, progress: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * learning_rate_factor(progress, config.schedule, config.warmup)
