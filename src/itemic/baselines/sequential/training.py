"""The training of every sequential baseline: one loop, stopped by NDCG@10 on valid; knows no network's inside."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itemic.baselines.best_epoch import VALID_CUTOFF, BestEpoch, valid_cases
from itemic.baselines.dense import DenseRecommender
from itemic.baselines.interactions import TrainingLog
from itemic.baselines.sequential.batch import Batch, Lessons
from itemic.baselines.sequential.config import ExamplesConfig, SequentialConfig, WindowsConfig
from itemic.baselines.sequential.examples import Examples
from itemic.baselines.sequential.losses import binary_cross_entropy, draw_negatives, full_softmax
from itemic.baselines.sequential.network import SequentialNetwork
from itemic.baselines.sequential.windows import WindowLessons
from itemic.core.dataset import Dataset
from itemic.core.errors import DataError
from itemic.core.progress import progress_bar
from itemic.core.ranking import allowed_mask
from itemic.core.seeds import derive_rng
from itemic.evaluate.metrics.ndcg import ndcg
from itemic.evaluate.protocol import EvaluationSet

__all__ = ["Plan", "plan_for_examples", "plan_for_windows", "train", "valid_ndcg"]

_VALID_BATCH = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What a network is taught, and how its weights move."""

    lessons: Lessons
    """Training material."""
    loss: Callable[[SequentialNetwork, Batch], Tensor]
    """Loss of a batch that is on the network's device but for its targets."""
    optimizer: torch.optim.Optimizer
    """Holds the network's weights."""
    learning_rate: Callable[[int, int], float]
    """From the number of the step and that of all steps of ``max_epochs``."""
    rng: np.random.Generator
    """Deals the lessons."""


def plan_for_windows(network: SequentialNetwork, log: TrainingLog, config: WindowsConfig, seed: int) -> Plan:
    """Returns the plan of networks that learn from every position: full softmax, AdamW, a linear schedule."""
    return Plan(
        lessons=WindowLessons(log=log, max_length=config.max_length, batch_tokens=config.batch_tokens),
        loss=softmax_loss,
        optimizer=torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        ),
        learning_rate=lambda step, num_steps: linear_rate(config.learning_rate, config.warmup_steps, step, num_steps),
        rng=derive_rng(seed, config.kind, "windows"),
    )


def plan_for_examples(network: SequentialNetwork, dataset: Dataset, config: ExamplesConfig, seed: int) -> Plan:
    """Returns the plan of networks that learn from one target a history: Adam with L2, a constant rate.

    Raises:
        DataError: if no training example has a history, or there is no other item to set against a target.
    """
    if config.loss == "bce" and dataset.num_items < 2:
        raise DataError("the catalogue has one item: there is none to set against a target")
    negatives = derive_rng(seed, config.kind, "negatives")
    return Plan(
        lessons=Examples.from_dataset(dataset, config.max_length, config.batch_size),
        loss=softmax_loss if config.loss == "softmax" else lambda network, batch: bce_loss(network, batch, negatives),
        optimizer=torch.optim.Adam(network.parameters(), lr=config.learning_rate, weight_decay=config.l2, fused=True),
        learning_rate=lambda step, num_steps: config.learning_rate,
        rng=derive_rng(seed, config.kind, "examples"),
    )


def softmax_loss(network: SequentialNetwork, batch: Batch) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy over the whole catalogue at the scored positions; padding gets no logits."""
    device = network.items.weight.device
    state = network.states(batch.items.to(device), batch.scored.to(device))
    return full_softmax(network.logits(state), batch.targets.to(device))


def bce_loss(network: SequentialNetwork, batch: Batch, rng: np.random.Generator) -> Float[Tensor, ""]:
    """Returns the binary cross-entropy of each target and one random other item."""
    device = network.items.weight.device
    state = network.states(batch.items.to(device), batch.scored.to(device))
    pairs = torch.stack([batch.targets, draw_negatives(batch.targets, network.output()[0].shape[0], rng)], dim=1)
    positive, negative = network.item_logits(state, pairs.to(device)).unbind(dim=1)
    return binary_cross_entropy(positive, negative)


def linear_rate(peak: float, warmup_steps: int, step: int, num_steps: int) -> float:
    """Returns the rate of a step: up to the peak in ``warmup_steps``, from there linearly to zero at the last."""
    warmup = min(1.0, (step + 1) / max(1, warmup_steps))
    return peak * warmup * (1 - step / num_steps)


def train(
    model: DenseRecommender,
    network: SequentialNetwork,
    dataset: Dataset,
    plan: Plan,
    config: SequentialConfig,
    seed: int,
) -> None:
    """Trains the network, which ``model`` scores with, and leaves it with the weights of the best epoch on valid.

    Without valid examples the last epoch's weights stay.
    """
    valid = valid_cases(dataset, config.max_valid_examples, seed)
    best = BestEpoch(network, config.patience)
    with progress_bar(f"fitting {model.name}, epochs", total=config.max_epochs) as advance:
        for epoch in range(config.max_epochs):
            train_epoch(network, plan, epoch, config.max_epochs)
            if valid is not None and best.offer(valid_ndcg(model, valid), epoch):
                break
            advance(1, f"valid NDCG@{VALID_CUTOFF} {best.figure:.4f}" if valid is not None else "")
    best.restore()
    network.eval()


def train_epoch(network: SequentialNetwork, plan: Plan, epoch: int, max_epochs: int) -> None:
    """Takes one step a batch."""
    network.train()
    num_batches, batches = plan.lessons.epoch(plan.rng)
    for number, batch in enumerate(batches):
        for group in plan.optimizer.param_groups:
            group["lr"] = plan.learning_rate(epoch * num_batches + number, max_epochs * num_batches)
        loss = plan.loss(network, batch)
        plan.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        plan.optimizer.step()


def valid_ndcg(model: DenseRecommender, cases: EvaluationSet) -> float:
    """Returns what the evaluation would give as NDCG@10, straight from the scores: no list is needed."""
    total = 0.0
    for start in range(0, len(cases), _VALID_BATCH):
        rows = np.arange(start, min(start + _VALID_BATCH, len(cases)))
        allowed = allowed_mask(len(rows), cases.num_items, cases.excluded(rows), None)
        scores = np.where(allowed, model.score(cases.histories(rows)), -np.inf)
        own = scores[np.arange(len(rows)), cases.target[rows]][:, None]
        num_tied = ((scores == own) & allowed).sum(axis=1)
        total += float(ndcg((scores > own).sum(axis=1), num_tied, VALID_CUTOFF).sum())
    return total / len(cases)
