"""A sentence-transformers model as a text encoder, with whatever modules it brings.

The only module that imports sentence-transformers (7 s), and only when an encoder is made.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from itemic.core.errors import ConfigError, MissingDependencyError
from itemic.embed.hugging_face import without_loading_bar
from itemic.embed.models import longest_text

__all__ = ["SentenceTransformerEncoder"]


class SentenceTransformerEncoder:
    """Lets sentence-transformers tokenize, run and pool."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        instruction: str = "",
        normalize: bool = True,
        max_length: int = 0,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Loads the model.

        Args:
            name: What to call it.
            folder: Its files.
            instruction: Put before every text, as sentence-transformers' ``prompt``.
            normalize: Whether vectors are scaled to length 1; a model may do so by itself.
            max_length: Longest text in tokens, cut beyond; 0 for the model's own limit.
            device: Where to compute.
            dtype: Number format of the weights.

        Raises:
            MissingDependencyError: if sentence-transformers is not installed.
            ConfigError: if the folder holds no such model or ``max_length`` is more than it can read.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            purpose = "backend: sentence-transformers"
            raise MissingDependencyError.for_extra("sentence-transformers", "text", purpose) from None
        self.name = name
        try:
            with without_loading_bar():
                self._model = SentenceTransformer(
                    str(folder), device=str(device), local_files_only=True, model_kwargs={"dtype": dtype}
                )
        except (OSError, ValueError) as error:
            raise ConfigError(f"encoder {name!r}: sentence-transformers cannot load {folder}: {error}") from None
        longest = longest_text(folder)
        if longest is not None and max_length > longest:
            raise ConfigError(f"max_length {max_length}: encoder {name!r} reads at most {longest} tokens")
        if max_length:
            self._model.max_seq_length = max_length
        self._instruction = instruction
        self._normalize = normalize

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Returns one vector a text; the texts are one batch."""
        vectors = self._model.encode(
            list(texts),
            prompt=self._instruction or None,
            batch_size=len(texts),
            normalize_embeddings=self._normalize,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, dtype=np.float32)
