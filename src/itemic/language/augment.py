"""Sequences perturbed so that a decoder does not learn them by heart; knows no tokens.

Only what precedes a target is perturbed, never what is true of it: an item is learned from items that came before it,
fewer of them or in another order, and never from one that came after it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from itemic.core.errors import ConfigError

__all__ = ["AugmentConfig", "augmented"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How an epoch perturbs each training sequence; the perturbations apply in the order in which they stand here."""

    crop: float = 0.0
    """Share of the sequences that begin at a random item of theirs. (An end that is cut off changes no context.)"""
    drop_items: float = 0.0
    """Share of the items that are left out: for this epoch neither context nor target."""
    swap_items: float = 0.0
    """Probability that an item changes places with the next one, left to right, each item once at most."""

    def __post_init__(self) -> None:
        for name in ("crop", "drop_items", "swap_items"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"augment.{name}: expected at least 0 and below 1, found {getattr(self, name)}")

    @property
    def is_idle(self) -> bool:
        """Whether sequences stay as they are."""
        return not (self.crop or self.drop_items or self.swap_items)


def augmented(
    length: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "m"], Bool[np.ndarray, "m"]]:
    """Returns the places of a sequence's items in their new order, and which of them are targets.

    An item is a target where all that stands before it also came before it: of two that were swapped the later one is,
    the earlier one is not. The first item is a target only where it is the first of the sequence: of another one it is
    not true that users begin with it.

    Args:
        length: Items of the sequence, at least 1.
        config: What to do.
        rng: Decides where.
    """
    place = np.arange(length)
    if config.crop and rng.random() < config.crop:
        place = place[int(rng.integers(length)) :]
    if config.drop_items:
        stays = rng.random(len(place)) >= config.drop_items
        place = place[stays] if stays.any() else place[-1:]
    if config.swap_items:
        place = _swapped(place, rng.random(len(place)) < config.swap_items)
    is_target = place == np.maximum.accumulate(place)
    is_target[0] = place[0] == 0
    return place, is_target


def _swapped(place: Int[np.ndarray, "m"], wants: Bool[np.ndarray, "m"]) -> Int[np.ndarray, "m"]:
    swapped, index = place.copy(), 0
    while index + 1 < len(place):
        if wants[index]:
            swapped[index : index + 2] = swapped[index : index + 2][::-1]
            index += 1
        index += 1
    return swapped
