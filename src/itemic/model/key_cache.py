"""A key-value cache that appends in place; knows no model. Imports transformers, so it is imported inside functions."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicLayer

__all__ = ["GrowingLayer", "make_growing_cache"]


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not followed by mypy
    """Keys and values of one layer at the beginning of larger arrays, so that T more tokens cost T copies and not all.

    Where there is no room left, new arrays hold twice as many tokens. Where gradients are wanted, and under
    torch.compile, which cannot trace arrays that share memory, all tokens are copied as transformers does it. All else
    is transformers' own, whose methods may replace ``keys`` and ``values``: the next tokens begin new arrays then.
    """

    keys: Any
    values: Any

    def __init__(self, **kwargs: Any) -> None:
        """Holds nothing."""
        super().__init__(**kwargs)
        self._arrays: tuple[Tensor, Tensor] | None = None
        self._written: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Returns keys and values of all tokens, the new ones last; views that later tokens leave as they are.

        Args:
            key_states: Keys of T tokens, (B, H, T, D).
            value_states: Their values.
            args: Not used.
            kwargs: Not used.
        """
        is_recorded = torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad)
        if is_recorded or torch.compiler.is_compiling():
            kept: tuple[Tensor, Tensor] = super().update(key_states, value_states)
            return kept
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        if self._arrays is None or self.keys is not self._written or self._arrays[0].shape[2] < stop:
            room = max(stop, 2 * start)
            self._arrays = _in_room(self.keys, key_states, room), _in_room(self.values, value_states, room)
        for array, states in zip(self._arrays, (key_states, value_states), strict=True):
            array[:, :, start:stop] = states
        self.keys, self.values = (array[:, :, :stop] for array in self._arrays)
        self._written = self.keys
        return self.keys, self.values


def _in_room(held: Tensor, states: Tensor, room: int) -> Tensor:
    """Returns an array with room for so many tokens, which begins with those that are held."""
    B, H, _, D = states.shape
    array = states.new_empty(B, H, room, D)
    if held.numel():
        array[:, :, : held.shape[2]] = held
    return array


def make_growing_cache() -> Any:
    """Returns an empty cache whose every layer keeps every key."""
    return Cache(layer_class_to_replicate=GrowingLayer)
