"""The catalogue's semantic IDs as a prefix tree in flat arrays; knows no model, no score and no filter.

Items are sorted by their codes; an item's place in that order is its *slot*. A node at depth d is a distinct prefix of
d codes, numbered in the same order, so its children are a range of the nodes at depth d + 1 and its items are a range
of slots. Depth 0 is the root, depth L the leaves; a leaf holds one item, or several where semantic IDs are shared.

Ten million items on unique semantic IDs take nine to twelve bytes each: four for each way between item and slot, one
or two for the last code, the rest for the inner nodes. A tree in a file is mapped into memory, not read.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer
from safetensors import SafetensorError, safe_open
from torch import Tensor

from itemic.core.errors import ArtifactError, CatalogError
from itemic.core.files import write_arrays
from itemic.language.spelling import SidTokens
from itemic.sid.catalog import Catalog
from itemic.sid.order import lexicographic_order

__all__ = ["Trie", "check_codebooks"]

log = logging.getLogger("itemic")

_FORMAT = "itemic trie 1"
_WORTH_STORING = 1_000_000
"""Items from which a stored tree saves what a user notices: a million are built in a third of a second."""
_MOST_ITEMS = 2**31 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Trie:
    """A prefix tree of semantic IDs; every array is int32, but for the codes."""

    codebook_sizes: tuple[int, ...]
    """Number of codes of each level."""
    codes: tuple[Integer[Tensor, "_"], ...]
    """``codes[d]`` is the last code of each node at depth d + 1; uint8 for at most 256 codes, int16 for at most
    32,768, int32 beyond (torch takes an index of uint8 for a mask: call ``.long()`` on what becomes one)."""
    child_start: tuple[Int[Tensor, "_"], ...]
    """Node i at depth d has the children ``child_start[d][i]`` to ``child_start[d][i + 1] - 1`` at depth d + 1."""
    slot_start: tuple[Int[Tensor, "_"], ...]
    """Node i at depth d has the slots ``slot_start[d][i]`` to ``slot_start[d][i + 1] - 1``. Depth L is there only
    where semantic IDs are shared: elsewhere a leaf's number is its slot."""
    item_of_slot: Int[Tensor, "_"]
    """Item index at each slot."""
    slot_of_item: Int[Tensor, "_"]
    """Slot of each item index, -1 for an item that is not in the tree."""
    max_children: tuple[int, ...]
    """For each depth below L the largest number of children of a node."""
    max_items: int
    """Largest number of items on one leaf: 1 unless semantic IDs are shared."""

    def __repr__(self) -> str:
        place = self.item_of_slot.device
        return f"Trie({self.num_items} items, {self.num_leaves} leaves, sizes {self.codebook_sizes}, on {place})"

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
            CatalogError: if no item is left, there are more than 2,147,483,647, or a code lies outside its codebook.
        """
        _check_codes(codes, codebook_sizes)
        items = _sorted_items(codes, active)
        slot_of_item = np.full(len(codes), -1, dtype=np.int32)
        slot_of_item[items] = np.arange(len(items), dtype=np.int32)
        node_codes, child_start, slot_start = _levels(codes, codebook_sizes, items)
        is_shared = len(slot_start) > len(codebook_sizes)
        return cls(
            codebook_sizes=tuple(int(size) for size in codebook_sizes),
            codes=tuple(map(torch.from_numpy, node_codes)),
            slot_start=(tensors := tuple(map(torch.from_numpy, slot_start))),
            child_start=tuple(
                tensors[depth] if start is slot_start[depth] else torch.from_numpy(start)
                for depth, start in enumerate(child_start)
            ),
            item_of_slot=torch.from_numpy(items.astype(np.int32)),
            slot_of_item=torch.from_numpy(slot_of_item),
            max_children=tuple(int(np.diff(start).max()) for start in child_start),
            max_items=int(np.diff(slot_start[-1]).max()) if is_shared else 1,
        )

    @classmethod
    def cached(cls, path: Path, catalog: Catalog) -> "Trie":
        """Returns the tree of a catalog's active items, from ``path`` where it lies there.

        Where it does not, or another catalog's does, it is built and, from a million active items on, stored there;
        a folder that cannot be written is logged and costs no more than building it the next time.

        Raises:
            CatalogError: if no item is active.
        """
        if catalog.num_active < _WORTH_STORING:
            return cls.from_catalog(catalog)
        try:
            if path.exists():
                return cls.load(path, catalog.version)
        except ArtifactError as error:
            log.warning("%s; it is built anew", error)
        trie = cls.from_catalog(catalog)
        try:
            trie.save(path, catalog.version)
        except OSError as error:
            log.warning("%s: the tree cannot be stored (%s)", path, error)
        return trie

    def save(self, path: Path, catalog_version: str = "") -> None:
        """Writes the tree as safetensors, atomically.

        Args:
            path: The file.
            catalog_version: Version of the catalog whose tree it is.
        """
        arrays = {"item_of_slot": self.item_of_slot, "slot_of_item": self.slot_of_item}
        arrays |= {f"codes.{depth}": array for depth, array in enumerate(self.codes)}
        arrays |= {f"child_start.{depth}": array for depth, array in enumerate(self.child_start)}
        arrays |= {
            f"slot_start.{depth}": array
            for depth, array in enumerate(self.slot_start)
            if depth == self.num_levels or array is not self.child_start[depth]
        }
        facts = {name: getattr(self, name) for name in ("codebook_sizes", "max_children", "max_items")}
        metadata = {"format": _FORMAT, "catalog_version": catalog_version, "facts": json.dumps(facts)}
        write_arrays(path, {name: array.cpu().numpy() for name, array in arrays.items()}, metadata)

    @classmethod
    def load(cls, path: Path, catalog_version: str | None = None) -> "Trie":
        """Returns the tree in a file, mapped into memory: opening it reads its header, using it the pages it needs.

        The file must stay as it is while the tree is used; ``save`` replaces a file and leaves mapped ones alone.

        Args:
            path: A file that ``save`` wrote.
            catalog_version: Version of the catalog whose tree it must be; None takes any.

        Raises:
            ArtifactError: if the file is missing, damaged, no tree, or another catalog's.
        """
        metadata, arrays = _read_file(path)
        if metadata.get("format") != _FORMAT:
            raise ArtifactError(f"{path}: not a tree that this itemic reads (format {metadata.get('format')!r})")
        if catalog_version not in (None, metadata["catalog_version"]):
            raise ArtifactError(
                f"{path}: tree of catalog {metadata['catalog_version'][:12]}, expected {catalog_version[:12]}"
            )
        try:
            trie = _from_arrays(json.loads(metadata["facts"]), arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path}: damaged tree ({error!r}); remove the file") from None
        if not trie._is_coherent():
            raise ArtifactError(f"{path}: damaged tree (its arrays do not fit each other); remove the file")
        return trie

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

    @property
    def is_shared(self) -> bool:
        """Whether a leaf may hold several items."""
        return len(self.slot_start) > self.num_levels

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays, each counted once."""
        arrays = (*self.codes, *self.child_start, *self.slot_start, self.item_of_slot, self.slot_of_item)
        return sum({array.data_ptr(): array.nbytes for array in arrays}.values())

    def num_nodes(self, depth: int) -> int:
        """Returns the number of distinct prefixes of ``depth`` codes."""
        return len(self.codes[depth - 1]) if depth else 1

    def children(
        self, depth: int, node: Int[Tensor, "*shape"]
    ) -> tuple[Int[Tensor, "*shape C"], Bool[Tensor, "*shape C"]]:
        """Returns the children of nodes at ``depth`` and which of the C columns really are children.

        C is the largest number of children at this depth, so that shapes do not depend on the nodes; a column beyond
        a node's own children repeats its first child.
        """
        first, last = self.child_range(depth, node)
        child = first[..., None] + torch.arange(self.max_children[depth], dtype=torch.int32, device=node.device)
        is_child = child < last[..., None]
        return torch.where(is_child, child, first[..., None]).long(), is_child

    def child_range(
        self, depth: int, node: Int[Tensor, "*shape"]
    ) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """Returns the first child of nodes at ``depth`` and the one after the last."""
        return self.child_start[depth][node], self.child_start[depth][node + 1]

    def num_children(self, depth: int, node: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Returns the number of children of nodes at ``depth``."""
        first, last = self.child_range(depth, node)
        return last - first

    def slots(self, depth: int, node: Int[Tensor, "*shape"]) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
        """Returns the first slot below nodes at ``depth`` and the one after the last."""
        if depth == len(self.slot_start):
            first = node.to(torch.int32)
            return first, first + 1
        return self.slot_start[depth][node], self.slot_start[depth][node + 1]

    def num_items_below(self, depth: int, node: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Returns the number of items below nodes at ``depth``."""
        if depth == len(self.slot_start):
            return torch.ones_like(node, dtype=torch.int32)
        first, last = self.slots(depth, node)
        return last - first

    def has_one_leaf(self, depth: int, node: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Returns whether the items below nodes at ``depth`` all share one semantic ID."""
        first, last = self.slots(depth, node)
        if not self.is_shared:
            return last - first == 1
        leaf = torch.searchsorted(self.slot_start[self.num_levels], first, right=True) - 1
        return self.slot_start[self.num_levels][leaf + 1] == last

    def items(self, leaf: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape M"]:
        """Returns the item indices on leaves, ascending, M = ``max_items`` places for each; -1 in empty places.

        Args:
            leaf: Numbers of leaves, -1 for none.
        """
        first, last = self.slots(self.num_levels, leaf.clamp(min=0))
        slot = first[..., None] + torch.arange(self.max_items, dtype=torch.int32, device=leaf.device)
        is_item = (slot < last[..., None]) & (leaf >= 0)[..., None]
        return torch.where(is_item, self.item_of_slot[slot.clamp(max=self.num_items - 1).long()], -1).long()

    def path(self, leaf: Int[Tensor, "*shape"]) -> tuple[Int[Tensor, "*shape"], ...]:
        """Returns the nodes at depths 0 to L on the way to each leaf; -1 at every depth for -1."""
        nodes = [leaf]
        for start in reversed(self.child_start):
            nodes.append(torch.searchsorted(start, nodes[-1].to(start.dtype).contiguous(), right=True) - 1)
        return tuple(reversed(nodes))

    def to(self, device: torch.device) -> "Trie":
        """Returns the tree with its arrays on ``device``; itself where they lie there."""
        if self.item_of_slot.device == torch.device(device):
            return self
        slot_start = tuple(array.to(device) for array in self.slot_start)
        return replace(
            self,
            codes=tuple(array.to(device) for array in self.codes),
            child_start=tuple(
                slot_start[depth] if array is self.slot_start[depth] else array.to(device)
                for depth, array in enumerate(self.child_start)
            ),
            slot_start=slot_start,
            item_of_slot=self.item_of_slot.to(device),
            slot_of_item=self.slot_of_item.to(device),
        )

    def _is_coherent(self) -> bool:
        """Returns whether the arrays fit each other, as far as their lengths and last entries tell."""
        depths = range(self.num_levels)
        lengths = {
            len(self.codes),
            len(self.child_start),
            len(self.max_children),
            min(len(self.slot_start), len(depths)),
        }
        if lengths != {self.num_levels}:
            return False
        return (
            all(len(self.child_start[d]) == len(self.slot_start[d]) == self.num_nodes(d) + 1 for d in depths)
            and all(self.child_start[d][-1] == self.num_nodes(d + 1) for d in depths)
            and all(start[-1] == self.num_items for start in self.slot_start)
            and self.num_leaves == (len(self.slot_start[-1]) - 1 if self.is_shared else self.num_items)
        )


def check_codebooks(sid_tokens: SidTokens, trie: Trie) -> None:
    """Refuses tokens that are not those of a tree's codes.

    Raises:
        CatalogError: if they are those of other codebooks.
    """
    spoken = sid_tokens.spelling.codebook_sizes
    if spoken != trie.codebook_sizes:
        raise CatalogError(f"the model speaks codebooks of {spoken} codes, the catalog has {trie.codebook_sizes}")


def _check_codes(codes: Int[np.ndarray, "N L"], codebook_sizes: Sequence[int]) -> None:
    if codes.shape[1] != len(codebook_sizes):
        raise CatalogError(f"items have {codes.shape[1]} codes, the codebooks {tuple(codebook_sizes)} need as many")
    if len(codes) > _MOST_ITEMS:
        raise CatalogError(f"{len(codes)} items; a tree holds at most {_MOST_ITEMS}")
    for level, size in enumerate(codebook_sizes):
        outside = (codes[:, level] < 0) | (codes[:, level] >= size)
        if outside.any():
            item = int(outside.argmax())
            raise CatalogError(
                f"item index {item} has code {codes[item, level]} at level {level}; its codebook has {size}"
            )


def _sorted_items(codes: Int[np.ndarray, "N L"], active: Bool[np.ndarray, "N"] | None) -> Int[np.ndarray, "n"]:
    """Returns the active items in the order of their codes."""
    if active is None or active.all():
        items = lexicographic_order(codes)
    else:
        items = np.flatnonzero(active)
        items = items[lexicographic_order(codes[items])]
    if not len(items):
        raise CatalogError(f"no item to decode: the catalog has {len(codes)} items, none of them active")
    return items


def _levels(
    codes: Int[np.ndarray, "N L"], codebook_sizes: Sequence[int], items: Int[np.ndarray, "n"]
) -> tuple[list[Integer[np.ndarray, "_"]], list[Int[np.ndarray, "_"]], list[Int[np.ndarray, "_"]]]:
    """Returns the arrays ``codes``, ``child_start`` and ``slot_start`` of a tree, level by level.

    Where every node of a depth has one item, its children and its slots begin at the same numbers: one array is both.
    """
    num_items = len(items)
    begins = np.zeros(num_items, dtype=bool)
    begins[0] = True
    first = np.zeros(1, dtype=np.int64)
    node_codes, child_start, slot_start = [], [], []
    for level, size in enumerate(codebook_sizes):
        column = codes[:, level].astype(_code_dtype(size))[items]
        above, begins_above = first, begins.copy()
        begins[1:] |= column[1:] != column[:-1]
        slot_start.append(_closed(above, num_items))
        first = np.flatnonzero(begins)
        if len(first) == num_items:
            node_codes.append(column)
            child_start.append(slot_start[-1])
        else:
            node_codes.append(column[first])
            child_start.append(_closed(np.flatnonzero(begins_above[first]), len(first)))
    if len(first) < num_items:
        slot_start.append(_closed(first, num_items))
    return node_codes, child_start, slot_start


def _closed(starts: Int[np.ndarray, "n"], end: int) -> Int[np.ndarray, "m"]:
    """Returns the starts of ranges with the end of the last one behind them."""
    closed = np.empty(len(starts) + 1, dtype=np.int32)
    closed[:-1] = starts
    closed[-1] = end
    return closed


def _code_dtype(codebook_size: int) -> type[np.integer]:
    """Returns the smallest type that every torch operation gathers from; of uint16 only some do."""
    if codebook_size <= 2**8:
        return np.uint8
    return np.int16 if codebook_size <= 2**15 else np.int32


def _read_file(path: Path) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    """Returns a file's metadata and its arrays, which are views of the mapped file."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ArtifactError(f"{path}: damaged ({error})") from None


def _from_arrays(facts: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> Trie:
    """Returns the tree of what ``Trie.save`` wrote."""
    num_levels = len(facts["codebook_sizes"])
    depths = range(num_levels)
    child_start = tuple(arrays[f"child_start.{depth}"] for depth in depths)
    slot_start = [arrays.get(f"slot_start.{depth}", child_start[depth]) for depth in depths]
    leaf_start = arrays.get(f"slot_start.{num_levels}")
    return Trie(
        codebook_sizes=tuple(facts["codebook_sizes"]),
        codes=tuple(arrays[f"codes.{depth}"] for depth in depths),
        child_start=child_start,
        slot_start=(*slot_start, *([] if leaf_start is None else [leaf_start])),
        item_of_slot=arrays["item_of_slot"],
        slot_of_item=arrays["slot_of_item"],
        max_children=tuple(facts["max_children"]),
        max_items=facts["max_items"],
    )
