"""Next-token learning on packed rows: the module the loop trains, its batches, and its validation.

Knows the model only as hidden states and logits; where texts and SIDs come from is the corpus's business.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from itemic.core.seeds import derive_rng
from itemic.language.corpus import Corpus
from itemic.language.packing import Group, TreeRow, pack_rows, rows_to_batch, visible
from itemic.language.spelling import SidTokens
from itemic.model.sid_model import SidModel
from itemic.train.loop import LearnerHooks
from itemic.train.losses import label_nll, smoothed_nll, sum_by_task

__all__ = ["NextTokenLoss", "SftLearner", "batch_tensors"]

Ranking = Callable[[], dict[str, float]]
"""Ranks validation users with the model as it is and returns figures by name."""


class NextTokenLoss(nn.Module):
    """Sum of the labels' negative log-likelihoods, by task; logits are computed only where there is a label."""

    def __init__(self, model: SidModel, num_tasks: int, *, label_smoothing: float = 0.0) -> None:
        """Wraps a model.

        Args:
            model: Its network becomes this module's only child, so these parameters are the network's.
            num_tasks: Number of tasks whose losses are told apart.
            label_smoothing: Share of a code's target that its whole level gets, while the module is in training mode:
                what is validated is always the plain loss.
        """
        super().__init__()
        self.network = model.network
        self._hidden, self._logits = model.hidden, model.logits
        self._num_tasks, self._smoothing = num_tasks, label_smoothing
        levels = SidTokens.from_tokenizer(model.tokenizer, model.spelling).level_ids if label_smoothing else ()
        self._level_tokens = [torch.from_numpy(tokens) for tokens in levels]

    def forward(self, batch: dict[str, Tensor]) -> Float[Tensor, "num_tasks"]:
        """Returns the sums for a batch of :func:`batch_tensors`."""
        mask = visible(batch["subtree_end"])
        hidden, _ = self._hidden(batch["input_ids"], mask, batch["position_ids"])
        logits = self._logits(hidden[batch["position_row"], batch["position_column"]])
        nll = self._nll(logits, batch["label_position"], batch["label_token"])
        if "label_weight" in batch:
            nll = nll * batch["label_weight"] if self.training else nll
        return sum_by_task(nll, batch["label_task"], self._num_tasks)

    def _nll(self, logits: Tensor, label_position: Tensor, label_token: Tensor) -> Tensor:
        if not self._smoothing or not self.training:
            return label_nll(logits, label_position, label_token)
        levels = [tokens.to(logits.device) for tokens in self._level_tokens]
        return smoothed_nll(logits, label_position, label_token, levels, self._smoothing)


def batch_tensors(rows: Sequence[TreeRow], pad_token: int, device: torch.device) -> dict[str, Tensor]:
    """Returns packed rows as tensors on a device; padding gets position 0."""
    packed = rows_to_batch(rows, pad_token)
    arrays = {
        "input_ids": packed.input_ids,
        "position_ids": np.maximum(packed.position_ids, 0),
        "subtree_end": packed.subtree_end,
        "position_row": packed.position_row,
        "position_column": packed.position_column,
        "label_position": packed.label_position,
        "label_token": packed.label_token,
        "label_task": packed.label_task,
    }
    if packed.label_weight is not None:
        arrays["label_weight"] = packed.label_weight
    return {name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in arrays.items()}


class SftLearner(LearnerHooks):
    """Supervised fine-tuning for the loop: every epoch packs the corpus anew, in an order of its own."""

    def __init__(
        self,
        model: SidModel,
        corpus: Corpus,
        *,
        row_tokens: int,
        rows_per_batch: int,
        seed: int,
        max_valid_examples: int = 0,
        ranking: Ranking | None = None,
        label_smoothing: float = 0.0,
        newest_from: int | None = None,
    ) -> None:
        """Prepares the validation rows.

        Args:
            model: What is trained.
            corpus: What it is taught.
            row_tokens: Most tokens in a packed row.
            rows_per_batch: Rows of a micro-batch.
            seed: Decides order and sampling of each epoch.
            max_valid_examples: Validation examples whose loss is taken; 0 takes all.
            ranking: Judges the model by its ranked lists; None judges by the validation loss.
            label_smoothing: Share of a code's target that all codes of its level get; see ``losses.smoothed_nll``.
            newest_from: Epoch, counted from 0, from which only the newest targets are taught; None for never.
        """
        self.module = NextTokenLoss(model, len(corpus.task_names), label_smoothing=label_smoothing)
        self.task_names = corpus.task_names
        self.lower_is_better = ranking is None
        self._corpus, self._ranking = corpus, ranking
        self._row_tokens, self._rows_per_batch, self._seed = row_tokens, rows_per_batch, seed
        self._newest_from = newest_from
        pad_token = model.tokenizer.pad_token_id
        self._pad_token = 0 if pad_token is None else int(pad_token)
        self._valid = self._pack(corpus.validation(max_valid_examples))
        self.micro_batches = functools.lru_cache(maxsize=1)(self._micro_batches)

    def _micro_batches(self, epoch: int) -> list[list[TreeRow]]:
        rng = derive_rng(self._seed, "epoch", epoch)
        newest_only = self._newest_from is not None and epoch >= self._newest_from
        rows = pack_rows(self._corpus.epoch(rng, newest_only=newest_only), self._row_tokens)
        return self._batches([rows[index] for index in rng.permutation(len(rows))])

    def label_counts(self, batch: Sequence[TreeRow]) -> list[int]:
        """Returns the number of labels of each task."""
        counts = [0] * len(self.task_names)
        for row in batch:
            for _, tokens, task in row.labels:
                counts[task] += len(tokens)
        return counts

    def collate(self, batch: Sequence[TreeRow], device: torch.device) -> tuple[dict[str, Tensor], int]:
        """Returns a batch as tensors, and its number of tokens."""
        return batch_tensors(batch, self._pad_token, device), sum(row.num_tokens for row in batch)

    def validate(self) -> dict[str, float]:
        """Returns the mean next-item loss in nats a token, preceded by the ranking figures where these decide."""
        if not self._valid:
            return {}
        figures = self._ranking() if self._ranking else {}
        return {**figures, "valid_loss": self._mean_loss(self._valid)}

    def _mean_loss(self, batches: Sequence[Sequence[TreeRow]]) -> float:
        device = next(self.module.parameters()).device
        sums = [float(self.module(self.collate(batch, device)[0]).sum()) for batch in batches]
        return sum(sums) / sum(sum(self.label_counts(batch)) for batch in batches)

    def _pack(self, groups: Sequence[Group]) -> list[list[TreeRow]]:
        return self._batches(pack_rows(groups, self._row_tokens))

    def _batches(self, rows: Sequence[TreeRow]) -> list[list[TreeRow]]:
        size = self._rows_per_batch
        return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
