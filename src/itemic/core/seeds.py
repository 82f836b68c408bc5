"""One seed for a run, from which every random stream is derived by name."""

import random

import numpy as np
import torch

from itemic.core.files import text_hash

__all__ = ["derive_rng", "derive_seed", "seed_everything"]


def derive_seed(seed: int, *names: str | int) -> int:
    """Returns a 63-bit seed for the stream ``names`` of the run ``seed``.

    Streams of different names are independent, so adding a random step to one stage moves no other stage.
    """
    return int(text_hash(str(seed), *map(str, names))[:16], 16) >> 1


def derive_rng(seed: int, *names: str | int) -> np.random.Generator:
    """Returns a NumPy generator for the stream ``names`` of the run ``seed``."""
    return np.random.default_rng(derive_seed(seed, *names))


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch (all devices): for libraries that take no generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
