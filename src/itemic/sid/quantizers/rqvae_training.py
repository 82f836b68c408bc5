"""Training of neural quantizers: how it is set, and one loop for every kind.

Knows nothing of kinds, files, or of how good a network is measured to be.
"""

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss

from itemic.core.allocator import tune_allocator
from itemic.core.errors import ConfigError
from itemic.core.progress import progress_bar
from itemic.core.schedule import learning_rate_factor
from itemic.sid.quantizers.codebook_updates import AveragedCodebooks, CodebookUpdate, DeadCodes, GradientCodebooks
from itemic.sid.quantizers.row_batches import RowBatch, read_batch, shuffled_batches
from itemic.sid.quantizers.rqvae_losses import commitment_loss
from itemic.sid.quantizers.rqvae_network import CodeChoice, Quantized, QuantizerNetwork, nearest_choice
from itemic.sid.quantizers.rqvae_progress import Progress, measure, warn_of_collapse
from itemic.sid.quantizers.vector_quantization import nearest_codes, rotate_to, sinkhorn_codes, straight_through

__all__ = ["TrainingTerm", "VQTrainingConfig", "train_network"]

log = logging.getLogger("itemic")

_MOST_GRADIENT = 1.0
_BETAS = (0.9, 0.95)
"""AdamW's; 0.95 in place of 0.999 lets a few thousand steps take a higher rate."""


@dataclass(frozen=True, kw_only=True)
class VQTrainingConfig:
    """How a neural quantizer learns; the kinds add their architecture."""

    epochs: int = 100
    """Most passes over the vectors. Default: by measurement; MiniOneRec takes 10,000 steps of the whole catalogue."""
    batch_size: int = 128
    """Vectors a step. Default: by measurement; MiniOneRec takes 20,480, so that a small catalogue has one step an
    epoch."""
    learning_rate: float = 3e-3
    """Peak rate of AdamW without weight decay. Default: by measurement; MiniOneRec 1e-3."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """What the rate does after the warm-up: stays (MiniOneRec) or falls to 0 along a cosine."""
    warmup: float = 0.05
    """Share of the training over which the rate rises from 0."""
    commitment_weight: float = 0.25
    """β, the weight that draws the encoder to the codes. Default: van den Oord et al."""
    codebook_update: Literal["gradient", "average"] = "gradient"
    """Whether codebooks learn by the codebook loss's gradient (paper, MiniOneRec) or as moving averages of the
    residuals that chose them. By measurement they do equally well."""
    codebook_rate: float = 5.0
    """Factor on the learning rate of the codebooks, which must follow an encoder in motion. Default: by measurement;
    the paper and MiniOneRec have 1."""
    average_decay: float = 0.95
    """Share of a moving average that is kept at each step; for ``codebook_update: average``."""
    revive_after: int = 1
    """Epochs without any item after which a code restarts at a badly coded residual; 0 is never (MiniOneRec). Default:
    by measurement; without it most codes of the first level are never used again once the encoder has moved."""
    estimator: Literal["straight-through", "rotation"] = "straight-through"
    """How gradients pass the choice of codes: copied, or rotated and rescaled (arXiv 2410.06424)."""
    sinkhorn_epsilons: tuple[float, ...] = ()
    """Entropy of the balanced assignment that each level trains with, 0 for the nearest code; none is 0 everywhere.
    MiniOneRec's last level takes 0.003 after training."""
    sinkhorn_iterations: int = 50
    """Alternations of the balanced assignment. Default: MiniOneRec."""
    evaluate_every: int = 5
    """Epochs between measurements on all training vectors; the weights of least reconstruction error are kept."""
    patience: int = 5
    """Measurements without a lower error after which training ends; 0 never ends early."""
    restart_rate: float = 0.1
    """Factor on the learning rate where training goes on from another quantizer, so that most codes stay."""
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:<n>; auto takes the fastest there is."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "sinkhorn_iterations", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: expected at least 1")
        for name in ("commitment_weight", "revive_after", "patience"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 0 or more")
        for name in ("learning_rate", "codebook_rate", "restart_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} {getattr(self, name)}: expected more than 0")
        if not 0 <= self.warmup < 1 or not 0 <= self.average_decay < 1:
            raise ConfigError(f"warmup {self.warmup}, average_decay {self.average_decay}: expected each in [0, 1)")
        if any(epsilon < 0 for epsilon in self.sinkhorn_epsilons):
            raise ConfigError(f"sinkhorn_epsilons {self.sinkhorn_epsilons}: expected 0 or more of each level")


@runtime_checkable
class TrainingTerm(Protocol):
    """A further term of the loss; a module, so that what it learns is trained along."""

    def begin_epoch(self) -> None:
        """Brings up to date what stays fixed during an epoch."""
        ...

    def loss(self, rows: Int[np.ndarray, "B"], quantized: Quantized) -> Float[Tensor, ""]:
        """Returns the weighted term for a batch, given by the rows of its items."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Returns what the term learns."""
        ...


def train_network(
    network: QuantizerNetwork,
    x: Float[np.ndarray, "N D"],
    config: VQTrainingConfig,
    generator: torch.Generator,
    *,
    terms: Sequence[TrainingTerm] = (),
    learning_rate: float | None = None,
) -> list[Progress]:
    """Returns the measurements, after training ``network`` and leaving it with its best weights.

    Best is the least reconstruction error on the training vectors among the measurements, that before the first step
    included: so training never makes it worse. The total loss is no guide, for it grows with the length of the latents
    while reconstruction improves.

    Args:
        network: With its codebooks started; trained in place.
        x: What to learn from; a mapped file is read in blocks (``shuffled_batches``).
        config: How.
        generator: Of the order of the vectors and of new starts, on the CPU.
        terms: Further terms of the loss.
        learning_rate: Peak rate in place of the config's.
    """
    tune_allocator()
    trainer = _Trainer(network, x, config, generator, terms, learning_rate or config.learning_rate)
    history = [measure(network, x, 0)]
    best, best_weights, num_worse = history[0].mse, copy.deepcopy(network.state_dict()), 0
    with progress_bar("training the quantizer", total=config.epochs) as advance:
        for epoch in range(1, config.epochs + 1):
            trainer.run_epoch()
            advance(1, str(history[-1]))
            if not math.isfinite(trainer.mean_loss):
                log.warning(
                    "training diverged in epoch %d; the best weights before are kept: lower learning_rate", epoch
                )
                break
            if epoch % config.evaluate_every and epoch < config.epochs:
                continue
            history.append(measure(network, x, epoch))
            log.info("epoch %d: loss %.4g, %s", epoch, trainer.mean_loss, history[-1])
            num_worse = 0 if history[-1].mse < best else num_worse + 1
            if num_worse == 0:
                best, best_weights = history[-1].mse, copy.deepcopy(network.state_dict())
            if config.patience and num_worse >= config.patience:
                break
    network.load_state_dict(best_weights)
    warn_of_collapse(min(history, key=lambda progress: progress.mse), [len(book) for book in network.codebooks])
    return history


class _Trainer:
    """The state of a training: optimizer, codebook update, dead codes, steps done."""

    def __init__(
        self,
        network: QuantizerNetwork,
        x: Float[np.ndarray, "N D"],
        config: VQTrainingConfig,
        generator: torch.Generator,
        terms: Sequence[TrainingTerm],
        learning_rate: float,
    ) -> None:
        self._network, self._x, self._config, self._generator, self._terms = network, x, config, generator, terms
        codebooks = list(network.codebooks)
        self._update: CodebookUpdate = (
            GradientCodebooks(codebooks)
            if config.codebook_update == "gradient"
            else AveragedCodebooks(codebooks, config.average_decay)
        )
        self._estimate = straight_through if config.estimator == "straight-through" else rotate_to
        self._choose = _choice_in_training(config)
        self._dead = DeadCodes([len(codebook) for codebook in codebooks], config.revive_after, generator)
        self._optimizer = _make_optimizer(network, terms, learning_rate, config.codebook_rate)
        self._peak_rates = [group["lr"] for group in self._optimizer.param_groups]
        self._steps_done, self._num_steps = 0, config.epochs * math.ceil(len(x) / config.batch_size)
        self.mean_loss = math.nan

    def run_epoch(self) -> None:
        """Passes over all vectors once, in random order; revives dead codes unless the loss is no longer finite."""
        total_loss = torch.zeros((), device=self._network.device)
        largest: Quantized | None = None
        for term in self._terms:
            term.begin_epoch()
        for batch in shuffled_batches(self._x, self._config.batch_size, self._generator):
            loss, quantized = self._step(batch)
            total_loss += loss * len(batch.rows)
            largest = quantized if largest is None or len(batch.rows) >= len(largest.codes) else largest
        self.mean_loss = float(total_loss) / len(self._x)
        if largest is not None and math.isfinite(self.mean_loss):
            self._dead.end_epoch(largest, self._update)

    def _step(self, batch: RowBatch) -> tuple[Float[Tensor, ""], Quantized]:
        network, config = self._network, self._config
        target = network.standardize(read_batch(batch.vectors, slice(None), network.device))
        latents = network.encoder(target)
        quantized = network.quantize(latents, self._choose)
        decoded = network.decoder(self._estimate(latents, quantized.total))
        loss = mse_loss(decoded, target)
        loss = loss + config.commitment_weight * commitment_loss(quantized.residuals, quantized.chosen)
        loss = loss + self._update.loss(quantized)
        for term in self._terms:
            loss = loss + term.loss(batch.rows, quantized)
        self._descend(loss)
        self._update.step(quantized)
        self._dead.observe(quantized.codes)
        return loss.detach(), quantized

    def _descend(self, loss: Float[Tensor, ""]) -> None:
        self._steps_done += 1
        factor = learning_rate_factor(self._steps_done / self._num_steps, self._config.schedule, self._config.warmup)
        for group, peak_rate in zip(self._optimizer.param_groups, self._peak_rates, strict=True):
            group["lr"] = peak_rate * factor
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        learned = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(learned, _MOST_GRADIENT)
        self._optimizer.step()


def _make_optimizer(
    network: QuantizerNetwork, terms: Sequence[TrainingTerm], learning_rate: float, codebook_rate: float
) -> torch.optim.Optimizer:
    """Returns AdamW for all that follows a gradient, the codebooks at a rate of their own."""
    codebooks = [codebook for codebook in network.codebooks if codebook.requires_grad]
    others = [*network.encoder.parameters(), *network.decoder.parameters()]
    others += [parameter for term in terms for parameter in term.parameters()]
    groups = [{"params": others, "lr": learning_rate}, {"params": codebooks, "lr": learning_rate * codebook_rate}]
    # The fused kernel is about three times as fast as the default on a CPU.
    return torch.optim.AdamW(groups, lr=learning_rate, betas=_BETAS, weight_decay=0.0, fused=True)


def _choice_in_training(config: VQTrainingConfig) -> CodeChoice:
    """Returns the nearest code, or the balanced one at the levels whose epsilon is above 0."""
    epsilons = config.sinkhorn_epsilons
    if not any(epsilons):
        return nearest_choice

    def choose(level: int, residual: Tensor, codebook: Tensor) -> Tensor:
        if epsilons[level] > 0:
            return sinkhorn_codes(residual, codebook, epsilons[level], config.sinkhorn_iterations)
        return nearest_codes(residual, codebook)

    return choose
