"""What every text encoder can do, turn texts into vectors, and what it can be told; knows no particular one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32

__all__ = ["EncoderOptions", "TextEncoder"]


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """What holds for an encoder of any backend."""

    instruction: str = ""
    """Put before every text."""
    normalize: bool = True
    """Whether vectors are scaled to length 1; a model may do so by itself."""
    max_length: int = 0
    """Longest text in tokens, cut beyond; 0 for the model's own limit."""
    device: torch.device
    """Where to compute."""
    dtype: torch.dtype = torch.float32
    """Number format of the weights."""


@runtime_checkable
class TextEncoder(Protocol):
    """A loaded model that reads texts."""

    name: str
    """Short name, folder or hub id, as the config says it."""

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Returns one vector a text; the texts are one batch, and the same text gets the same vector in any batch."""
        ...
