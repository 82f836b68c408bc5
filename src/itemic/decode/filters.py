"""Which items each request may get, as counts over ranges of the trie's slots; knows no scores.

A node stays open while at least one item below it is allowed. A node's items are a range of slots, so that question is
two binary searches in a request's sorted list of slots: the cost follows the lists, never the catalogue.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from itemic.core.errors import DataError
from itemic.core.ranking import Histories
from itemic.decode.trie import Trie

__all__ = ["ItemFilter"]


@dataclass(frozen=True, eq=False)
class ItemFilter:
    """A list of items for each request, either the only ones allowed or those that are not."""

    trie: Trie
    """The tree whose slots are meant."""
    listed: Int[Tensor, "B E"]
    """For each request the listed slots, ascending, filled up with the number of slots."""
    are_allowed: bool
    """Whether the listed items are the allowed ones."""

    @classmethod
    def from_lists(
        cls, trie: Trie, num_requests: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> "ItemFilter":
        """Returns the filter that allows the items of ``allow`` (or all) without those of ``exclude``.

        Items that are in the catalogue but not in the tree are passed over.

        Args:
            trie: The tree whose slots are meant.
            num_requests: Number of requests B.
            exclude: For each request item indices.
            allow: For each request item indices.

        Raises:
            DataError: if an item index is not in the catalogue or a list is not one a request.
        """
        keys = _keys(trie, num_requests, exclude, "exclude")
        if allow is not None:
            keys = np.setdiff1d(_keys(trie, num_requests, allow, "allow"), keys, assume_unique=True)
        request, slot = np.divmod(keys, trie.num_items)
        start = np.searchsorted(request, np.arange(num_requests + 1))
        listed = np.full((num_requests, np.diff(start).max(initial=0)), trie.num_items, dtype=np.int32)
        listed[request, np.arange(len(keys)) - start[request]] = slot
        return cls(trie, torch.from_numpy(listed).to(trie.item_of_slot.device), are_allowed=allow is not None)

    def select(self, requests: Int[Tensor, "b"]) -> "ItemFilter":
        """Returns the filter of some requests, in their order."""
        return ItemFilter(self.trie, self.listed[requests], self.are_allowed)

    def num_allowed(self, depth: int, node: Int[Tensor, "B *shape"]) -> Int[Tensor, "B *shape"]:
        """Returns how many items below nodes at ``depth`` each request may get."""
        return self._num_between(*self.trie.slots(depth, node))

    def allows(self, slot: Int[Tensor, "B *shape"]) -> Bool[Tensor, "B *shape"]:
        """Returns whether each request may get the item at a slot."""
        return self._num_between(slot, slot + 1) > 0

    def _num_between(self, first: Int[Tensor, "B *shape"], last: Int[Tensor, "B *shape"]) -> Int[Tensor, "B *shape"]:
        num_listed = self._rank(last) - self._rank(first)
        return num_listed if self.are_allowed else last - first - num_listed

    def _rank(self, slot: Int[Tensor, "B *shape"]) -> Int[Tensor, "B *shape"]:
        """Returns how many listed slots lie before a slot."""
        rank = torch.searchsorted(self.listed, slot.flatten(1).contiguous(), out_int32=True)
        return rank.view(slot.shape)


def _keys(trie: Trie, num_requests: int, lists: Histories | None, what: str) -> Int[np.ndarray, "_"]:
    """Returns ``request * num_slots + slot`` of every listed item in the tree, ascending and without repeats."""
    if lists is None:
        return np.empty(0, dtype=np.int64)
    if len(lists) != num_requests:
        raise DataError(f"{what} has {len(lists)} lists for {num_requests} histories")
    slot_of_item = trie.slot_of_item.cpu().numpy()
    items = np.concatenate([np.empty(0, dtype=np.int64), *(np.asarray(items, dtype=np.int64) for items in lists)])
    request = np.repeat(np.arange(num_requests), [len(items) for items in lists])
    outside = (items < 0) | (items >= len(slot_of_item))
    if outside.any():
        entry = np.flatnonzero(outside)[0]
        raise DataError(
            f"{what}[{request[entry]}] holds item index {items[entry]}; the catalogue has 0..{len(slot_of_item) - 1}"
        )
    slot = slot_of_item[items]
    return np.unique((request * trie.num_items + slot)[slot >= 0])
