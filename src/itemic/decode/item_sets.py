"""Sets of items packed into bits over the trie: what all requests that name one predicate share.

Knows no request's own lists, no score and no column: ``conditions`` says which items a predicate holds for, ``filters``
gives the sets to requests.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Int32, Integer, Shaped, UInt8
from torch import Tensor

from itemic.core.errors import DataError
from itemic.decode.trie import Trie

__all__ = ["ItemSet", "ItemSetTable"]

_GROUP = 64
"""Slots for which one count is kept."""
_BIT = torch.arange(8, dtype=torch.uint8)
_ONES_IN_BYTE = torch.tensor([value.bit_count() for value in range(256)], dtype=torch.uint8)
_BITS_BEFORE = torch.tensor(
    [[(1 << min(max(place - 8 * byte, 0), 8)) - 1 for byte in range(8)] for place in range(_GROUP)], dtype=torch.uint8
)
"""Row i masks the first i of 64 bits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemSet:
    """A set of items: a bit a slot, a count before every 64 slots, and a byte a node above the leaves.

    That is 1.5 bits an item and a byte for each inner node, of which there are few but in a tree of long thin paths.
    Where semantic IDs are shared a count a leaf comes on top.
    """

    trie: Trie
    """The tree whose slots are meant."""
    slot_bits: UInt8[Tensor, "_"]
    """Bit ``slot & 7`` of byte ``slot >> 3`` is set where the item is in the set; whole groups of 64 slots."""
    num_before: Int32[Tensor, "_"]
    """Number of items of the set before each group of 64 slots."""
    is_open: tuple[Bool[Tensor, "_"], ...]
    """For each depth above the leaves whether an item of the set lies below each node."""
    num_on_leaf: Integer[Tensor, "_"] | None
    """Number of items of the set on each leaf; None where every leaf holds one item."""
    num_items: int
    """Number of items of the set that are in the tree."""

    @classmethod
    def from_mask(cls, trie: Trie, is_in: Bool[np.ndarray, "_"]) -> "ItemSet":
        """Returns the set of the items for which ``is_in`` holds.

        Args:
            trie: The tree whose slots are meant.
            is_in: For each item index whether it is in the set.

        Raises:
            DataError: if there is not one value for each item of the catalogue.
        """
        if len(is_in) != len(trie.slot_of_item):
            raise DataError(f"a mask of {len(is_in)} items for a catalogue of {len(trie.slot_of_item)}")
        at_slot = torch.from_numpy(is_in).to(trie.item_of_slot.device)[trie.item_of_slot]
        num_before = torch.zeros(trie.num_items + 1, dtype=torch.int32, device=at_slot.device)
        num_before[1:] = at_slot.cumsum(dim=0, dtype=torch.int32)
        num_below = [num_before[start[1:]] - num_before[start[:-1]] for start in trie.slot_start]
        return cls(
            trie=trie,
            slot_bits=_pack(at_slot),
            num_before=num_before[::_GROUP].clone(),
            is_open=tuple(number > 0 for number in num_below[: trie.num_levels]),
            num_on_leaf=num_below[-1].to(_count_dtype(trie)) if trie.is_shared else None,
            num_items=int(num_before[-1]),
        )

    @classmethod
    def everything(cls, trie: Trie) -> "ItemSet":
        """Returns the set of all items of a tree."""
        device = trie.item_of_slot.device
        num_on_leaf = trie.slot_start[-1].diff().to(_count_dtype(trie)) if trie.is_shared else None
        return cls(
            trie=trie,
            slot_bits=torch.full((_num_bytes(trie.num_items),), 255, dtype=torch.uint8, device=device),
            num_before=torch.arange(0, trie.num_items + 1, _GROUP, dtype=torch.int32, device=device),
            is_open=tuple(
                torch.ones(trie.num_nodes(depth), dtype=torch.bool, device=device) for depth in range(trie.num_levels)
            ),
            num_on_leaf=num_on_leaf,
            num_items=trie.num_items,
        )

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays, in bytes."""
        arrays = [self.slot_bits, self.num_before, *self.is_open]
        arrays += [] if self.num_on_leaf is None else [self.num_on_leaf]
        return sum(array.nbytes for array in arrays)


class ItemSetTable:
    """The distinct sets of a batch's requests; a request names its set by the row."""

    def __init__(self, sets: Sequence[ItemSet]) -> None:
        """Stacks the sets' arrays; a single one is not copied."""
        self._trie = sets[0].trie
        self._is_single = len(sets) == 1
        self._slot_bits = _stack([item_set.slot_bits for item_set in sets])
        self._num_before = _stack([item_set.num_before for item_set in sets])
        self._is_open = [_stack(depth) for depth in zip(*(item_set.is_open for item_set in sets), strict=True)]
        counts = [item_set.num_on_leaf for item_set in sets if item_set.num_on_leaf is not None]
        self._num_on_leaf = _stack(counts) if counts else None
        self.num_items = torch.tensor([item_set.num_items for item_set in sets], device=self._slot_bits.device)
        """Number of items of each set."""

    def move_to(self, trie: Trie) -> "ItemSetTable":
        """Returns the sets where a tree's arrays lie; itself where they lie there.

        Args:
            trie: The sets' own tree, moved to another device.
        """
        device = trie.item_of_slot.device
        if self._slot_bits.device == device:
            return self
        moved = copy.copy(self)
        moved._trie = trie
        moved._slot_bits, moved._num_before = self._slot_bits.to(device), self._num_before.to(device)
        moved._is_open = [depth.to(device) for depth in self._is_open]
        moved._num_on_leaf = None if self._num_on_leaf is None else self._num_on_leaf.to(device)
        moved.num_items = self.num_items.to(device)
        return moved

    def num_open(self, row: Int[Tensor, "B"], depth: int, node: Int[Tensor, "B *shape"]) -> Int[Tensor, "B *shape"]:
        """Returns how many items of each request's set lie on a leaf, and above the leaves 1 where any lies below."""
        if depth < self._trie.num_levels:
            found = self._look_up(self._is_open[depth], row, node)
        elif self._num_on_leaf is not None:
            found = self._look_up(self._num_on_leaf, row, node)
        else:
            found = self._bit(row, node)
        return found.to(torch.int32)

    def holds(self, row: Int[Tensor, "B"], slot: Int[Tensor, "B *shape"]) -> Bool[Tensor, "B *shape"]:
        """Returns whether the item at a slot is in the request's set."""
        return self._bit(row, slot) > 0

    def num_below(self, row: Int[Tensor, "n"], depth: int, node: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        """Returns how many items of a set lie below nodes, by counting bits: exact, but not for every candidate."""
        first, last = self._trie.slots(depth, node)
        return self._num_before_slot(row, last.long()) - self._num_before_slot(row, first.long())

    def _num_before_slot(self, row: Int[Tensor, "n"], slot: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        # The slot after the last may begin a group that has no bytes; none of its bits is asked for.
        bytes_of_group = self._slot_bits.view(len(self._slot_bits), -1, _GROUP // 8)
        group = slot // _GROUP
        byte = self._look_up(bytes_of_group, row, group.clamp(max=bytes_of_group.shape[1] - 1))
        wanted = byte & _BITS_BEFORE.to(byte.device)[slot % _GROUP]
        num_in_group = _ONES_IN_BYTE.to(byte.device)[wanted.long()].sum(dim=-1)
        return self._look_up(self._num_before, row, group) + num_in_group

    def _bit(self, row: Int[Tensor, "B"], slot: Int[Tensor, "B *shape"]) -> UInt8[Tensor, "B *shape"]:
        byte = self._look_up(self._slot_bits, row, slot >> 3)
        return byte.bitwise_right_shift_((slot & 7).to(torch.uint8)).bitwise_and_(1)

    def _look_up(self, table: Shaped[Tensor, "..."], row: Int[Tensor, "B"], column: Int[Tensor, "B *shape"]) -> Tensor:
        """Returns a copy of the entries of each request's row of a table."""
        if not self._is_single:
            column = column + (row * table.shape[1]).view(-1, *[1] * (column.dim() - 1))
        # On a CPU six times as fast as indexing.
        found = table.flatten(0, 1).index_select(0, column.flatten())
        return found.view(*column.shape, *table.shape[2:])


def _stack(arrays: Sequence[Shaped[Tensor, "n"]]) -> Shaped[Tensor, "P n"]:
    return arrays[0][None] if len(arrays) == 1 else torch.stack(list(arrays))


def _pack(is_in: Bool[Tensor, "n"]) -> UInt8[Tensor, "_"]:
    """Returns one bit a place in whole groups of 64, lowest bit first."""
    padded = torch.zeros(8 * _num_bytes(len(is_in)), dtype=torch.uint8, device=is_in.device)
    padded[: len(is_in)] = is_in
    return (padded.view(-1, 8) << _BIT.to(is_in.device)).sum(dim=1, dtype=torch.uint8)


def _num_bytes(num_bits: int) -> int:
    return -(-num_bits // _GROUP) * (_GROUP // 8)


def _count_dtype(trie: Trie) -> torch.dtype:
    return torch.uint8 if trie.max_items < 256 else torch.int32
