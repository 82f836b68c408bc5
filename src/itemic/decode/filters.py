"""Which items each request may get, as marks on nodes of the trie; knows no scores.

A request's own lists (what was seen, denied or allowed) are a few slots, so they become a few marked nodes of each
depth: with an allow list the nodes that lead to an allowed item, otherwise the nodes that lead to denied items only. A
node is looked up among them by binary search. What holds for many requests (a category, what is in stock) is an
``ItemSet``, a bit a node. The cost of a step follows the candidates and the lists, never the catalogue.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from itemic.core.errors import DataError
from itemic.core.ranking import Histories
from itemic.decode.item_sets import ItemSet, ItemSetTable
from itemic.decode.trie import Trie

__all__ = ["ItemFilter"]

_FILLING = 2**62


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemFilter:
    """For each request a list of items, either the only ones allowed or those that are not, and a set of items."""

    trie: Trie
    """The tree whose slots are meant."""
    are_allowed: bool
    """Whether the listed items are the allowed ones."""
    slots: Int[Tensor, "B E"]
    """For each request the listed slots that are in its set, ascending, filled up with a number beyond all."""
    nodes: tuple[Int[Tensor, "B _"], ...]
    """For each depth 0..L the marked nodes, ascending, filled up likewise: those that lead to a listed
    item where these are allowed, those that lead to no allowed item (on leaves: to a listed one) where not."""
    num_on_leaf: Int[Tensor, "B F"]
    """Number of listed items on each marked leaf."""
    sets: ItemSetTable | None
    """The requests' sets; None where all are of all items."""
    row: Int[Tensor, "B"]
    """Each request's row in ``sets``."""
    num_items: Int[Tensor, "B"]
    """Number of items that each request may get: a search that lists fewer did not reach them all."""

    @classmethod
    def from_lists(
        cls,
        trie: Trie,
        num_requests: int,
        exclude: Histories | None = None,
        allow: Histories | None = None,
        within: Sequence[ItemSet | None] | None = None,
    ) -> "ItemFilter":
        """Returns the filter that allows the items of ``allow`` (or all) in ``within`` without those of ``exclude``.

        Items that are in the catalogue but not in the tree are passed over.

        Args:
            trie: The tree whose slots are meant.
            num_requests: Number of requests B.
            exclude: For each request item indices.
            allow: For each request item indices.
            within: For each request a set of items; None for all of them.

        Raises:
            DataError: if an item index is not in the catalogue, a list or set is not one a request, or a set is of
                another tree.
        """
        sets, row = _stack_sets(trie, num_requests, within)
        keys = _keys(trie, num_requests, exclude, "exclude")
        if allow is not None:
            allowed_keys = _keys(trie, num_requests, allow, "allow")
            keys = allowed_keys[~torch.isin(allowed_keys, keys, assume_unique=True)]
        request, slot = keys // trie.num_items, keys % trie.num_items
        if sets is not None:
            is_in = sets.holds(row[request], slot)
            request, slot = request[is_in], slot[is_in]
        marks = [
            _marks(trie, sets, row, request, slot, depth, are_allowed=allow is not None)
            for depth in range(trie.num_levels + 1)
        ]
        num_listed = torch.bincount(request, minlength=num_requests)
        num_in_set = torch.full_like(num_listed, trie.num_items) if sets is None else sets.num_items[row]
        leaf_request, _, num_on_leaf = marks[-1]
        return cls(
            trie=trie,
            are_allowed=allow is not None,
            slots=_rows(request, slot, num_requests),
            nodes=tuple(_rows(owner, node, num_requests) for owner, node, _ in marks),
            num_on_leaf=_rows(leaf_request, num_on_leaf, num_requests),
            sets=sets,
            row=row,
            num_items=num_listed if allow is not None else num_in_set - num_listed,
        )

    def __len__(self) -> int:
        """Returns the number of requests."""
        return len(self.slots)

    def select(self, requests: Int[Tensor, "b"]) -> "ItemFilter":
        """Returns the filter of some requests, in their order."""
        return replace(
            self,
            slots=self.slots[requests],
            nodes=tuple(nodes[requests] for nodes in self.nodes),
            num_on_leaf=self.num_on_leaf[requests],
            row=self.row[requests],
            num_items=self.num_items[requests],
        )

    def move_to(self, trie: Trie) -> "ItemFilter":
        """Returns the filter where a tree's arrays lie; itself where they lie there.

        Args:
            trie: The filter's own tree, moved to another device.
        """
        device = trie.item_of_slot.device
        if self.slots.device == device:
            return self
        return replace(
            self,
            trie=trie,
            slots=self.slots.to(device),
            nodes=tuple(nodes.to(device) for nodes in self.nodes),
            num_on_leaf=self.num_on_leaf.to(device),
            sets=None if self.sets is None else self.sets.move_to(trie),
            row=self.row.to(device),
            num_items=self.num_items.to(device),
        )

    def num_allowed(self, depth: int, node: Int[Tensor, "B *shape"]) -> Int[Tensor, "B *shape"]:
        """Returns how many items on a leaf each request may get; above the leaves 1 where it may get any, else 0."""
        if self.are_allowed:
            return self._num_listed(depth, node)
        if not self.nodes[depth].shape[1]:
            return self._num_open(depth, node)
        return self._num_open(depth, node) - self._num_listed(depth, node)

    def allows(self, slot: Int[Tensor, "B *shape"]) -> Bool[Tensor, "B *shape"]:
        """Returns whether each request may get the item at a slot; none is behind the last slot."""
        is_listed, _ = _find(self.slots, slot)
        if self.are_allowed:
            return is_listed
        is_allowed = ~is_listed & (slot < self.trie.num_items)
        if self.sets is None:
            return is_allowed
        return is_allowed & self.sets.holds(self.row, slot.clamp(max=self.trie.num_items - 1))

    def _num_open(self, depth: int, node: Int[Tensor, "B *shape"]) -> Int[Tensor, "B *shape"]:
        """Returns what ``num_allowed`` would be without the lists."""
        if self.sets is not None:
            return self.sets.num_open(self.row, depth, node)
        if depth == self.trie.num_levels and self.trie.is_shared:
            return self.trie.num_items_below(depth, node)
        return torch.ones_like(node, dtype=torch.int32)

    def _num_listed(self, depth: int, node: Int[Tensor, "B *shape"]) -> Int[Tensor, "B *shape"]:
        """Returns the number of listed items on a leaf; above the leaves 1 for a marked node."""
        is_marked, place = _find(self.nodes[depth], node)
        num_listed = is_marked.to(torch.int32)
        if depth < self.trie.num_levels or not self.trie.is_shared or not self.num_on_leaf.shape[1]:
            return num_listed
        return num_listed * self.num_on_leaf.gather(1, place.flatten(1)).view(place.shape)


def _stack_sets(
    trie: Trie, num_requests: int, within: Sequence[ItemSet | None] | None
) -> tuple[ItemSetTable | None, Int[Tensor, "B"]]:
    """Returns the distinct sets and which of them each request has."""
    device = trie.item_of_slot.device
    _check_length(within, num_requests, "within", "sets")
    if within is None or all(item_set is None for item_set in within):
        return None, torch.zeros(num_requests, dtype=torch.int64, device=device)
    distinct = {id(item_set): item_set for item_set in within}
    if any(item_set is not None and item_set.trie is not trie for item_set in distinct.values()):
        raise DataError("an item set is of another tree than the filter; make it with the filter's tree")
    numbers = {key: number for number, key in enumerate(distinct)}
    sets = [ItemSet.everything(trie) if item_set is None else item_set for item_set in distinct.values()]
    return ItemSetTable(sets), torch.tensor([numbers[id(item_set)] for item_set in within], device=device)


def _check_length(lists: Sequence[object] | None, num_requests: int, what: str, kind: str = "lists") -> None:
    if lists is not None and len(lists) != num_requests:
        raise DataError(f"{what} has {len(lists)} {kind} for {num_requests} histories")


def _keys(trie: Trie, num_requests: int, lists: Histories | None, what: str) -> Int[Tensor, "_"]:
    """Returns ``request * num_slots + slot`` of every listed item in the tree, ascending and without repeats."""
    _check_length(lists, num_requests, what)
    rows = [np.asarray(items, dtype=np.int64) for items in lists or ()]
    items = np.concatenate([np.empty(0, dtype=np.int64), *rows])
    request = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    num_items = len(trie.slot_of_item)
    outside = (items < 0) | (items >= num_items)
    if outside.any():
        entry = np.flatnonzero(outside)[0]
        raise DataError(
            f"{what}[{request[entry]}] holds item index {items[entry]}; the catalogue has 0..{num_items - 1}"
        )
    slot = trie.slot_of_item[torch.from_numpy(items).to(trie.slot_of_item.device)].long()
    keys = torch.from_numpy(request).to(slot.device) * trie.num_items + slot
    kept: Tensor = torch.unique(keys[slot >= 0])
    return kept


def _marks(
    trie: Trie,
    sets: ItemSetTable | None,
    row: Int[Tensor, "B"],
    request: Int[Tensor, "n"],
    slot: Int[Tensor, "n"],
    depth: int,
    *,
    are_allowed: bool,
) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"], Int[Tensor, "m"]]:
    """Returns request and number of each node at ``depth`` to be marked, and how many listed items lie below it.

    Args:
        trie: The tree.
        sets: The requests' sets.
        row: Row in ``sets`` of each request.
        request: Of each listed slot that is in its request's set, ascending.
        slot: These slots, ascending within a request.
        depth: Of the nodes.
        are_allowed: Whether the listed slots are the allowed ones.
    """
    keys = request * trie.num_nodes(depth) + _node_of_slot(trie, depth, slot)
    keys, num_listed = torch.unique_consecutive(keys, return_counts=True)
    owner, node = keys // trie.num_nodes(depth), keys % trie.num_nodes(depth)
    if are_allowed or depth == trie.num_levels:
        return owner, node, num_listed
    num_below = trie.num_items_below(depth, node) if sets is None else sets.num_below(row[owner], depth, node)
    is_closed = num_listed == num_below
    return owner[is_closed], node[is_closed], num_listed[is_closed]


def _node_of_slot(trie: Trie, depth: int, slot: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
    if depth == trie.num_levels and not trie.is_shared:
        return slot
    return torch.searchsorted(trie.slot_start[depth], slot.to(torch.int32), right=True) - 1


def _rows(request: Int[Tensor, "n"], value: Int[Tensor, "n"], num_requests: int) -> Int[Tensor, "B E"]:
    """Returns the values of each request in a row, filled up on the right."""
    first = torch.searchsorted(request, torch.arange(num_requests + 1, device=request.device))
    width = int(first.diff().max()) if num_requests else 0
    rows = torch.full((num_requests, width), _FILLING, dtype=torch.int64, device=request.device)
    rows[request, torch.arange(len(request), device=request.device) - first[request]] = value
    return rows


def _find(
    rows: Int[Tensor, "B E"], value: Int[Tensor, "B *shape"]
) -> tuple[Bool[Tensor, "B *shape"], Int[Tensor, "B *shape"]]:
    """Returns whether each value is in its ascending row, and the place where it is (any place where it is not)."""
    if not rows.shape[1]:
        return torch.zeros(value.shape, dtype=torch.bool, device=value.device), torch.zeros_like(value)
    wanted = value.flatten(1).to(torch.int64).contiguous()
    place = torch.searchsorted(rows, wanted).clamp_(max=rows.shape[1] - 1)
    return (rows.gather(1, place) == wanted).view(value.shape), place.view(value.shape)
