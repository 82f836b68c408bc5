import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import DataError
from itemic.core.ranking import allowed_mask
from itemic.decode.filters import ItemFilter
from itemic.decode.trie import Trie

ITEMS = st.lists(st.integers(0, 11), max_size=14)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_counts_equal_those_of_a_dense_mask(data: st.DataObject) -> None:
    num_requests = data.draw(st.integers(0, 4))
    lists = st.one_of(st.none(), st.lists(ITEMS, min_size=num_requests, max_size=num_requests))
    exclude, allow = data.draw(lists), data.draw(lists)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    active = rng.random(12) < 0.8
    active[3] = True
    trie = Trie.from_codes(rng.integers(0, 4, (12, 2)), (4, 4), active)
    dense = allowed_mask(num_requests, 12, exclude, allow)[:, trie.item_of_slot.numpy()]
    item_filter = ItemFilter.from_lists(trie, num_requests, exclude, allow)
    for depth in range(3):
        node = torch.arange(trie.num_nodes(depth)).expand(num_requests, -1)
        expected = (
            [
                [
                    int(row[a:b].sum())
                    for a, b in zip(*map(torch.Tensor.tolist, trie.slots(depth, node[0])), strict=True)
                ]
                for row in dense
            ]
            if num_requests
            else []
        )
        assert item_filter.num_allowed(depth, node).tolist() == expected
    slot = torch.arange(trie.num_items, dtype=torch.int32).expand(num_requests, -1)
    assert item_filter.allows(slot).tolist() == dense.tolist()


def test_select_takes_requests_in_order() -> None:
    trie = Trie.from_codes(np.array([[0], [1], [2]]), (3,))
    item_filter = ItemFilter.from_lists(trie, 3, exclude=[[0], [1], [2]]).select(torch.tensor([2, 0]))
    slot = torch.arange(3, dtype=torch.int32).expand(2, 3)
    assert item_filter.allows(slot).tolist() == [[True, True, False], [False, True, True]]


def test_bad_lists_are_named() -> None:
    trie = Trie.from_codes(np.array([[0], [1], [2]]), (3,))
    with pytest.raises(DataError, match=r"exclude\[1\] holds item index 3; the catalogue has 0..2"):
        ItemFilter.from_lists(trie, 2, exclude=[[0], [3]])
    with pytest.raises(DataError, match=r"allow\[0\] holds item index -1"):
        ItemFilter.from_lists(trie, 1, allow=[[-1]])
    with pytest.raises(DataError, match="allow has 1 lists for 2 histories"):
        ItemFilter.from_lists(trie, 2, allow=[[0]])
