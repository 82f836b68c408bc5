"""Any Hugging Face encoder or decoder as a text encoder: tokens in, pooled last hidden states out.

The only module of this package that imports transformers.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from itemic.core.errors import ConfigError
from itemic.embed.encoder import EncoderOptions
from itemic.embed.models import longest_text, sentence_max_length

__all__ = ["HuggingFaceEncoder", "pool", "without_loading_bar"]


class HuggingFaceEncoder:
    """Pools what ``AutoModel`` makes of each text."""

    def __init__(self, name: str, folder: Path, options: EncoderOptions, *, pooling: str) -> None:
        """Loads the model.

        Args:
            name: What to call it.
            folder: Its files.
            options: What it is told.
            pooling: "mean", "last" or "cls".

        Raises:
            ConfigError: if the folder holds no such model or ``max_length`` is more than it can read.
        """
        from transformers import AutoModel, AutoTokenizer

        self.name = name
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="right")
            with without_loading_bar():
                network = AutoModel.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, dtype=options.dtype
                )
        except (OSError, ValueError) as error:
            raise ConfigError(f"encoder {name!r}: transformers cannot load {folder}: {error}") from None
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._network = network.to(options.device).eval()
        self._max_length = _token_limit(name, options.max_length, folder)
        self._pooling = pooling
        self._options = options

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Returns one vector a text; the texts are one batch, padded to the longest."""
        batch = self._tokenizer(
            [self._options.instruction + text for text in texts],
            padding=True,
            truncation=True,
            max_length=self._max_length,
            return_tensors="pt",
        ).to(self._network.device)
        hidden = self._network(**batch).last_hidden_state
        vectors = pool(hidden.float(), batch["attention_mask"].bool(), self._pooling)
        if self._options.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        array: np.ndarray = vectors.cpu().numpy()
        return array


def pool(hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], pooling: str) -> Float[Tensor, "B D"]:
    """Returns one vector a row: the mean of its tokens, its last one, or its first ("cls"); padding never counts.

    Args:
        hidden: Last hidden states.
        mask: True on tokens, False on padding at either side.
        pooling: "mean", "last" or "cls".
    """
    if pooling == "mean":
        weights = mask.to(hidden.dtype)[:, :, None]
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    if pooling == "last":
        place = torch.where(mask, positions, -1).amax(dim=1).clamp(min=0)
    elif pooling == "cls":
        place = torch.where(mask, positions, mask.shape[1] - 1).amin(dim=1)
    else:
        raise ConfigError(f"pooling {pooling!r}: expected mean, last or cls")
    return hidden[torch.arange(len(hidden), device=hidden.device), place]


@contextlib.contextmanager
def without_loading_bar() -> Iterator[None]:
    """Keeps transformers from drawing its own bar while weights are loaded."""
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _token_limit(name: str, wanted: int, folder: Path) -> int:
    """Returns how many tokens of a text are read: ``wanted``, or what the model's files state."""
    longest = longest_text(folder)
    if wanted:
        if longest is not None and wanted > longest:
            raise ConfigError(f"max_length {wanted}: encoder {name!r} reads at most {longest} tokens")
        return wanted
    limit = sentence_max_length(folder) or longest
    if limit is None:
        raise ConfigError(f"encoder {name!r} states no longest text; set max_length")
    return limit
