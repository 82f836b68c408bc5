"""What every text encoder can do: turn texts into vectors; knows no particular one."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

__all__ = ["TextEncoder"]


@runtime_checkable
class TextEncoder(Protocol):
    """A loaded model that reads texts."""

    name: str
    """Short name, folder or hub id, as the config says it."""

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Returns one vector a text; the texts are one batch, and the same text gets the same vector in any batch."""
        ...
