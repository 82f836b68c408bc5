"""The catalogue's semantic IDs as a prefix tree in flat arrays; knows no model, no score and no filter.

Items are sorted by their codes; an item's place in that order is its *slot*. A node at depth d is a distinct prefix of
d codes, numbered in the same order, so its children are a range of the nodes at depth d + 1 and its items are a range
of slots. Depth 0 is the root, depth L the leaves; a leaf holds one item, or several where semantic IDs are shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from itemic.core.errors import CatalogError
from itemic.sid.catalog import Catalog
from itemic.sid.order import lexicographic_order

__all__ = ["Trie"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trie:
    """A prefix tree of semantic IDs; every array is int32."""

    codebook_sizes: tuple[int, ...]
    """Number of codes of each level."""
    codes: tuple[Int[Tensor, "_"], ...]
    """``codes[d]`` is the last code of each node at depth d + 1."""
    child_start: tuple[Int[Tensor, "_"], ...]
    """Node i at depth d has the children ``child_start[d][i]`` to ``child_start[d][i + 1] - 1`` at depth d + 1."""
    slot_start: tuple[Int[Tensor, "_"], ...]
    """Node i at depth d has the slots ``slot_start[d][i]`` to ``slot_start[d][i + 1] - 1``."""
    item_of_slot: Int[Tensor, "_"]
    """Item index at each slot."""
    slot_of_item: Int[Tensor, "_"]
    """Slot of each item index, -1 for an item that is not in the tree."""
    max_children: tuple[int, ...]
    """For each depth below L the largest number of children of a node."""
    max_items: int
    """Largest number of items on one leaf: 1 unless semantic IDs are shared."""

    @classmethod
    def from_catalog(cls, catalog: Catalog) -> "Trie":
        """Returns the tree of a catalog's active items.

        Raises:
            CatalogError: if none is active.
        """
        return cls.from_codes(catalog.codes, catalog.codebook_sizes, catalog.active)

    @classmethod
    def from_codes(
        cls,
        codes: Int[np.ndarray, "N L"],
        codebook_sizes: Sequence[int],
        active: Bool[np.ndarray, "N"] | None = None,
    ) -> "Trie":
        """Returns the tree of the items' codes; removed items leave no path behind.

        Args:
            codes: Codes of item index 0 to N - 1, coarse first.
            codebook_sizes: Number of codes of each level.
            active: Items to put in; None puts in all.

        Raises:
            CatalogError: if no item is left, or a code lies outside its codebook.
        """
        _check_codes(codes, codebook_sizes)
        items = np.arange(len(codes)) if active is None else np.flatnonzero(active)
        if not len(items):
            raise CatalogError(f"no item to decode: the catalog has {len(codes)} items, none of them active")
        items = items[lexicographic_order(codes[items])]
        first_slots = _first_slots(codes[items])
        slot_of_item = np.full(len(codes), -1)
        slot_of_item[items] = np.arange(len(items))
        child_start = [np.append(np.searchsorted(below, above), len(below)) for above, below in pairwise(first_slots)]
        slot_start = [np.append(first, len(items)) for first in first_slots]
        return cls(
            codebook_sizes=tuple(int(size) for size in codebook_sizes),
            codes=tuple(_int32(codes[items[first], level]) for level, first in enumerate(first_slots[1:])),
            child_start=tuple(map(_int32, child_start)),
            slot_start=tuple(map(_int32, slot_start)),
            item_of_slot=_int32(items),
            slot_of_item=_int32(slot_of_item),
            max_children=tuple(int(np.diff(start).max()) for start in child_start),
            max_items=int(np.diff(slot_start[-1]).max()),
        )

    @property
    def num_levels(self) -> int:
        """Number of levels L."""
        return len(self.codebook_sizes)

    @property
    def num_items(self) -> int:
        """Number of items in the tree."""
        return len(self.item_of_slot)

    @property
    def num_leaves(self) -> int:
        """Number of distinct semantic IDs."""
        return self.num_nodes(self.num_levels)

    def num_nodes(self, depth: int) -> int:
        """Returns the number of distinct prefixes of ``depth`` codes."""
        return len(self.slot_start[depth]) - 1

    def children(
        self, depth: int, node: Int[Tensor, "*shape"]
    ) -> tuple[Int[Tensor, "*shape C"], Bool[Tensor, "*shape C"]]:
        """Returns the children of nodes at ``depth`` and which of the C columns really are children.

        C is the largest number of children at this depth, so that shapes do not depend on the nodes; a column beyond
        a node's own children repeats its first child.
        """
        first = self.child_start[depth][node].unsqueeze(-1)
        last = self.child_start[depth][node + 1].unsqueeze(-1)
        child = first + torch.arange(self.max_children[depth], dtype=torch.int32, device=node.device)
        is_child = child < last
        return torch.where(is_child, child, first).long(), is_child

    def slots(self, depth: int, node: Int[Tensor, "*shape"]) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """Returns the first slot below nodes at ``depth`` and the one after the last."""
        return self.slot_start[depth][node], self.slot_start[depth][node + 1]

    def num_items_below(self, depth: int, node: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Returns the number of items below nodes at ``depth``."""
        first, last = self.slots(depth, node)
        return last - first

    def to(self, device: torch.device) -> "Trie":
        """Returns the tree with its arrays on ``device``."""
        return replace(
            self,
            codes=tuple(array.to(device) for array in self.codes),
            child_start=tuple(array.to(device) for array in self.child_start),
            slot_start=tuple(array.to(device) for array in self.slot_start),
            item_of_slot=self.item_of_slot.to(device),
            slot_of_item=self.slot_of_item.to(device),
        )


def _check_codes(codes: Int[np.ndarray, "N L"], codebook_sizes: Sequence[int]) -> None:
    if codes.shape[1] != len(codebook_sizes):
        raise CatalogError(f"items have {codes.shape[1]} codes, the codebooks {tuple(codebook_sizes)} need as many")
    outside = (codes < 0) | (codes >= np.asarray(codebook_sizes))
    if outside.any():
        item, level = np.argwhere(outside)[0]
        size = codebook_sizes[level]
        raise CatalogError(f"item index {item} has code {codes[item, level]} at level {level}; its codebook has {size}")


def _first_slots(sorted_codes: Int[np.ndarray, "n L"]) -> list[Int[np.ndarray, "_"]]:
    """Returns for each depth 0..L the slot at which every node begins."""
    begins = np.zeros(len(sorted_codes), dtype=bool)
    begins[0] = True
    first_slots = [np.flatnonzero(begins)]
    for level in range(sorted_codes.shape[1]):
        begins[1:] |= sorted_codes[1:, level] != sorted_codes[:-1, level]
        first_slots.append(np.flatnonzero(begins))
    return first_slots


def _int32(array: Int[np.ndarray, "_"]) -> Int[Tensor, "_"]:
    return torch.from_numpy(array.astype(np.int32))
