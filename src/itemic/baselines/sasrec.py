"""SASRec with the full softmax: the sequential baseline that a generative model is measured against.

Trained on every position of every user's training sequence, one row a window, with cross-entropy over the whole
catalogue, which third parties found far stronger than the paper's one negative a positive (Klenitskiy and Vasilev,
2023). The valid split chooses the epoch and nothing else.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from itemic.baselines.dense import DenseRecommender
from itemic.baselines.interactions import TrainingLog
from itemic.baselines.sasrec_network import SasrecNetwork
from itemic.baselines.windows import Windows
from itemic.core.allocator import tune_allocator
from itemic.core.dataset import Dataset
from itemic.core.device import pick_device
from itemic.core.errors import ConfigError
from itemic.core.progress import progress_bar
from itemic.core.ranking import Histories, allowed_mask
from itemic.core.seeds import derive_rng, derive_seed
from itemic.evaluate.metrics.ndcg import ndcg
from itemic.evaluate.protocol import EvaluateConfig, EvaluationSet, evaluation_set

__all__ = ["SASRec", "SASRecConfig"]

_VALID_CUTOFF = 10
_VALID_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class SASRecConfig:
    """Network and training. The defaults were chosen on the valid split of MovieLens-100k."""

    kind: Literal["sasrec"] = "sasrec"
    hidden_size: int = 128
    """Width D of the states and item embeddings."""
    num_layers: int = 2
    """Transformer blocks; the paper's."""
    num_heads: int = 2
    """Attention heads."""
    dropout: float = 0.3
    """Share of units left out of embeddings and of each part's output while training."""
    max_length: int = 50
    """Items a window holds and a history is cut to; the paper's for short sequences is the same."""
    batch_tokens: int = 1024
    """Targets of a step, about; a step holds this many times N logits, three times over, at 4 bytes."""
    learning_rate: float = 1e-3
    """Peak of the schedule; the paper's."""
    weight_decay: float = 0.0
    """Decoupled decay of the weights (AdamW)."""
    warmup_steps: int = 50
    """Steps in which the rate rises to its peak; from there it falls linearly to zero at the last epoch."""
    max_epochs: int = 15
    """Passes over the training sequences; 20 gained nothing."""
    patience: int = 5
    """Epochs without a better valid NDCG@10 after which training stops."""
    max_valid_examples: int = 10_000
    """Valid examples that choose the epoch: a random subset of this many; 0 takes all."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""

    def __post_init__(self) -> None:
        counts = ("hidden_size", "num_layers", "num_heads", "max_length", "batch_tokens", "max_epochs", "patience")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, found {self.dropout}")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.warmup_steps < 0:
            raise ConfigError(f"expected a learning rate above 0, a decay and a warm-up of at least 0, found {self}")


class SASRec(DenseRecommender):
    """Scores every item by the network's state after the last ``max_length`` items of the history.

    An empty history, which the network cannot read, is scored by the log of popularity.
    """

    name = "SASRec"

    def __init__(self, network: SasrecNetwork, counts: Int[np.ndarray, "N"], max_length: int) -> None:
        super().__init__(len(counts))
        self.network = network
        self.counts = counts
        self.max_length = max_length

    @classmethod
    def fit(cls, dataset: Dataset, *, seed: int, config: SASRecConfig | None = None) -> "SASRec":
        """Returns the recommender with the weights of the epoch that was best on valid.

        Without valid examples the last epoch's weights are kept. Two fits with one seed on one machine and number of
        threads give the same weights; the caller's random state is left as it was.

        Raises:
            DataError: if there are no training interactions.
        """
        config = config or SASRecConfig()
        device = pick_device(config.device)
        tune_allocator()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(seed, "sasrec"))
            return _train(dataset, config, device, seed)

    @torch.inference_mode()
    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns the network's logits for every item, as float64."""
        scores = np.tile(np.log((self.counts + 1.0) / (self.counts.sum() + self.num_items)), (len(histories), 1))
        rows = [row for row, history in enumerate(histories) if len(history)]
        if rows:
            state = self._states([histories[row] for row in rows])
            scores[rows] = self.network.logits(state).double().cpu().numpy()
        return scores

    @torch.no_grad()  # not inference_mode, whose tensors may not enter a loss that is differentiated
    def score_items(self, histories: Histories, items: Int[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Returns the network's logits for some items of each history, on the network's device.

        Args:
            histories: B histories, oldest item first, none of them empty.
            items: Item indices.
        """
        return torch.einsum("bd,bcd->bc", self._states(histories), self.network.items(items))

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the network's weights and the counts."""
        weights = {f"network.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}
        return {**weights, "counts": self.counts}, {}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], *, device: str = "auto") -> "SASRec":
        """Returns the recommender of what ``stored`` gave; the weights' shapes say how large the network is."""
        weights = {
            name.removeprefix("network."): torch.from_numpy(array)
            for name, array in arrays.items()
            if name.startswith("network.")
        }
        network = _restored_network(weights).to(pick_device(device)).eval()
        return cls(network, arrays["counts"], arrays["network.blocks.0.distance_bias"].shape[1])

    def _states(self, histories: Histories) -> Float[Tensor, "n D"]:
        """Returns the network's state after the last item of each history."""
        self.network.eval()
        histories = [history[-self.max_length :] for history in histories]
        device = self.network.items.weight.device
        lengths = torch.tensor([len(history) for history in histories])
        items = torch.zeros(len(histories), int(lengths.max()), dtype=torch.int64)
        items[torch.arange(items.shape[1]) < lengths[:, None]] = torch.tensor([i for h in histories for i in h])
        states: Tensor = self.network(items.to(device))
        return states[torch.arange(len(histories), device=device), lengths.to(device) - 1]


def _restored_network(weights: dict[str, Tensor]) -> SasrecNetwork:
    """Returns the network of these weights, whose shapes say how large it is."""
    num_items, hidden_size = weights["items.weight"].shape
    num_heads, max_length = weights["blocks.0.distance_bias"].shape
    num_layers = sum(name.endswith(".distance_bias") for name in weights)
    network = SasrecNetwork(num_items, max_length, hidden_size, num_layers, num_heads, dropout=0.0)
    network.load_state_dict(weights)
    return network


def _train(dataset: Dataset, config: SASRecConfig, device: torch.device, seed: int) -> SASRec:
    log = TrainingLog.from_dataset(dataset)
    network = SasrecNetwork(
        num_items=log.num_items,
        max_length=config.max_length,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout=config.dropout,
    ).to(device)
    model = SASRec(network, log.counts(), config.max_length)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    valid = _valid_cases(dataset, config, seed)
    rng = derive_rng(seed, "sasrec", "windows")
    best = _Best()
    with progress_bar("fitting SASRec, epochs", total=config.max_epochs) as advance:
        for epoch in range(config.max_epochs):
            _train_epoch(network, optimizer, log, config, epoch, rng)
            if valid is not None:
                best.offer(_valid_ndcg(model, valid), epoch, network)
                if epoch - best.epoch >= config.patience:
                    break
            advance(1, f"valid NDCG@{_VALID_CUTOFF} {best.ndcg:.4f}" if valid is not None else "")
    if best.weights is not None:
        network.load_state_dict(best.weights)
    network.eval()
    return model


@dataclass
class _Best:
    """The weights of the best epoch so far."""

    ndcg: float = -1.0
    epoch: int = -1
    weights: dict[str, Tensor] | None = None

    def offer(self, value: float, epoch: int, network: SasrecNetwork) -> None:
        """Takes the network's weights if the value is the highest so far."""
        if value > self.ndcg:
            self.ndcg, self.epoch, self.weights = value, epoch, copy.deepcopy(network.state_dict())


def _train_epoch(
    network: SasrecNetwork,
    optimizer: torch.optim.Optimizer,
    log: TrainingLog,
    config: SASRecConfig,
    epoch: int,
    rng: np.random.Generator,
) -> None:
    """Takes one step a batch of freshly cut windows."""
    network.train()
    windows = Windows.cut(log, config.max_length, rng)
    batches = windows.batches(config.batch_tokens, rng)
    for number, rows in enumerate(batches):
        step = epoch * len(batches) + number
        _set_learning_rate(optimizer, config, step, config.max_epochs * len(batches))
        loss = _loss(network, *windows.load(log, rows))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _loss(
    network: SasrecNetwork, items: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], real: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy over the whole catalogue at the real positions; padding gets no logits."""
    device = network.items.weight.device
    real = real.to(device)
    state = network(items.to(device))[real]
    return functional.cross_entropy(network.logits(state), targets.to(device)[real])


def _set_learning_rate(optimizer: torch.optim.Optimizer, config: SASRecConfig, step: int, num_steps: int) -> None:
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * warmup * (1 - step / num_steps)


def _valid_cases(dataset: Dataset, config: SASRecConfig, seed: int) -> EvaluationSet | None:
    if dataset.valid.is_empty():
        return None
    return evaluation_set(dataset, EvaluateConfig(split="valid", max_examples=config.max_valid_examples), seed=seed)


def _valid_ndcg(model: SASRec, cases: EvaluationSet) -> float:
    """Returns what the evaluation would give as NDCG@10, straight from the scores: no list is needed."""
    total = 0.0
    for start in range(0, len(cases), _VALID_BATCH):
        rows = np.arange(start, min(start + _VALID_BATCH, len(cases)))
        allowed = allowed_mask(len(rows), cases.num_items, cases.excluded(rows), None)
        scores = np.where(allowed, model.score(cases.histories(rows)), -np.inf)
        own = scores[np.arange(len(rows)), cases.target[rows]][:, None]
        num_tied = ((scores == own) & allowed).sum(axis=1)
        total += float(ndcg((scores > own).sum(axis=1), num_tied, _VALID_CUTOFF).sum())
    return total / len(cases)
