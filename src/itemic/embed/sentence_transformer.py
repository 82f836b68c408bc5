"""A sentence-transformers model as a text encoder, with whatever modules it brings.

The only module that imports sentence-transformers (7 s), and only when an encoder is made.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from itemic.core.errors import ConfigError, MissingDependencyError
from itemic.embed.encoder import EncoderOptions
from itemic.embed.hugging_face import without_loading_bar
from itemic.embed.models import longest_text

__all__ = ["SentenceTransformerEncoder"]


class SentenceTransformerEncoder:
    """Lets sentence-transformers tokenize, run and pool."""

    def __init__(self, name: str, folder: Path, options: EncoderOptions) -> None:
        """Loads the model.

        Args:
            name: What to call it.
            folder: Its files.
            options: What it is told; the instruction is sentence-transformers' ``prompt``.

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
                    str(folder),
                    device=str(options.device),
                    local_files_only=True,
                    model_kwargs={"dtype": options.dtype},
                )
        except (OSError, ValueError) as error:
            raise ConfigError(f"encoder {name!r}: sentence-transformers cannot load {folder}: {error}") from None
        longest = longest_text(folder)
        if longest is not None and options.max_length > longest:
            raise ConfigError(f"max_length {options.max_length}: encoder {name!r} reads at most {longest} tokens")
        if options.max_length:
            self._model.max_seq_length = options.max_length
        self._options = options

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Returns one vector a text; the texts are one batch."""
        vectors = self._model.encode(
            list(texts),
            prompt=self._options.instruction or None,
            batch_size=len(texts),
            normalize_embeddings=self._options.normalize,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, dtype=np.float32)
