import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import DataError
from itemic.core.ranking import allowed_mask
from itemic.decode.filters import ItemFilter
from itemic.decode.item_sets import ItemSet
from itemic.decode.trie import Trie

ITEMS = st.lists(st.integers(0, 11), max_size=14)


def nodes_of(trie: Trie, depth: int, num_requests: int) -> torch.Tensor:
    return torch.arange(trie.num_nodes(depth)).expand(num_requests, -1)


def count_by_hand(trie: Trie, depth: int, at_slot: np.ndarray) -> list[list[int]]:
    """Returns for each request how many of its slots lie below every node of a depth."""
    bounds = [column.tolist() for column in trie.slots(depth, torch.arange(trie.num_nodes(depth)))]
    return [[int(row[first:last].sum()) for first, last in zip(*bounds, strict=True)] for row in at_slot]


@settings(max_examples=150)
@given(st.data())
def test_a_filter_is_a_dense_mask(data: st.DataObject) -> None:
    num_requests = data.draw(st.integers(0, 4))
    lists = st.one_of(st.none(), st.lists(ITEMS, min_size=num_requests, max_size=num_requests))
    exclude, allow = data.draw(lists), data.draw(lists)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    active = rng.random(12) < 0.8
    active[3] = True
    trie = Trie.from_codes(rng.integers(0, 4, (12, 2)), (4, 4), active)
    masks = [rng.random(12) < share for share in (0.2, 0.7, 1.0)]
    sets = [*(ItemSet.from_mask(trie, mask) for mask in masks), None]
    chosen = data.draw(st.none() | st.lists(st.integers(0, 3), min_size=num_requests, max_size=num_requests))
    within = None if chosen is None else [sets[number] for number in chosen]
    dense = allowed_mask(num_requests, 12, exclude, allow)
    for row, number in enumerate(chosen or ()):
        dense[row] &= [*masks, np.ones(12, dtype=bool)][number]
    at_slot = dense[:, trie.item_of_slot.numpy()]

    item_filter = ItemFilter.from_lists(trie, num_requests, exclude, allow, within)
    assert item_filter.num_items.tolist() == at_slot.sum(axis=1).tolist()
    for order in (torch.arange(num_requests), torch.arange(num_requests).flip(0).repeat(2)):
        picked, wanted = item_filter.select(order), at_slot[order.numpy()]
        for depth in range(3):
            num_allowed = picked.num_allowed(depth, nodes_of(trie, depth, len(order)))
            expected = count_by_hand(trie, depth, wanted)
            if depth < 2:
                expected = [[int(count > 0) for count in row] for row in expected]
            assert num_allowed.tolist() == expected
        slot = torch.arange(trie.num_items + 2, dtype=torch.int32).expand(len(order), -1)
        assert picked.allows(slot).tolist() == [[*row, False, False] for row in wanted.tolist()]


@settings(max_examples=60)
@given(num_items=st.integers(1, 300), share=st.sampled_from([0.0, 0.03, 0.5, 1.0]), seed=st.integers(0, 99))
def test_a_set_counts_its_items_below_every_node(num_items: int, share: float, seed: int) -> None:
    """Across groups of 64 slots, with shared semantic IDs, against sums over the mask."""
    rng = np.random.default_rng(seed)
    trie = Trie.from_codes(rng.integers(0, 5, (num_items, 3)), (5, 5, 5))
    masks = [rng.random(num_items) < share, rng.random(num_items) < 0.5]
    sets = [ItemSet.from_mask(trie, mask) for mask in masks]
    assert [item_set.num_items for item_set in sets] == [int(mask.sum()) for mask in masks]
    at_slot = np.stack(masks)[:, trie.item_of_slot.numpy()]
    for depth in range(4):
        node = torch.arange(trie.num_nodes(depth))
        expected = count_by_hand(trie, depth, at_slot)
        for table_sets, rows in (([sets[0]], [0]), (sets, [0, 1])):
            item_filter = ItemFilter.from_lists(trie, len(rows), within=[table_sets[row] for row in rows])
            assert item_filter.sets is not None
            found = [item_filter.sets.num_below(torch.full_like(node, row), depth, node).tolist() for row in rows]
            assert found == expected[: len(rows)]


def test_a_set_takes_a_fraction_of_a_byte_an_item() -> None:
    codes = np.stack(np.unravel_index(np.arange(64_000), (40, 40, 40)), axis=1)
    trie = Trie.from_codes(codes, (40, 40, 40))
    mask = np.arange(64_000) % 3 == 0
    item_set = ItemSet.from_mask(trie, mask)
    assert item_set.num_bytes < 0.22 * 64_000
    everything = ItemSet.everything(trie)
    same = ItemSet.from_mask(trie, np.ones(64_000, dtype=bool))
    assert everything.num_items == same.num_items
    assert torch.equal(everything.num_before, same.num_before)


def test_seen_denied_and_predicate_by_hand() -> None:
    """Leaves 00 01 | 10 11 12 | 20: items 0 to 5 in this order."""
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 0]])
    trie = Trie.from_codes(codes, (3, 3))
    in_stock = ItemSet.from_mask(trie, np.array([True, False, True, True, False, True]))
    item_filter = ItemFilter.from_lists(trie, 3, exclude=[[0], [2, 3], []], within=[in_stock, in_stock, None])
    assert item_filter.num_items.tolist() == [3, 2, 6]
    # Item 1 is out of stock and item 0 denied: the first subtree is closed for request 0, the second for request 1.
    assert item_filter.num_allowed(1, nodes_of(trie, 1, 3)).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert item_filter.num_allowed(2, nodes_of(trie, 2, 3)).tolist() == [
        [0, 0, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1],
    ]
    nothing = ItemFilter.from_lists(trie, 1, allow=[[1, 4]], within=[in_stock])
    assert nothing.num_items.tolist() == [0]
    assert nothing.num_allowed(0, torch.zeros(1, 1, dtype=torch.int64)).tolist() == [[0]]


def test_counts_on_shared_leaves_by_hand() -> None:
    """Items 0, 2 and 4 share a leaf, item 1 and 3 have their own."""
    trie = Trie.from_codes(np.array([[0], [1], [0], [2], [0]]), (3,))
    some = ItemSet.from_mask(trie, np.array([True, True, False, False, True]))
    leaves = nodes_of(trie, 1, 2)
    count = [([[0, 1], [4]], None, None, [[2, 0, 1], [2, 1, 1]])]
    count += [([[0, 1], [4]], None, [some, some], [[1, 0, 0], [1, 1, 0]])]
    count += [([[0], []], [[0, 4, 3], [3]], [some, None], [[1, 0, 0], [0, 0, 1]])]
    for exclude, allow, within, expected in count:
        assert ItemFilter.from_lists(trie, 2, exclude, allow, within).num_allowed(1, leaves).tolist() == expected


def test_a_catalogue_of_one_item() -> None:
    trie = Trie.from_codes(np.array([[4, 2]]), (5, 5))
    root, leaf = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)
    for is_in, exclude in ((True, []), (False, []), (True, [0])):
        item_filter = ItemFilter.from_lists(trie, 1, [exclude], within=[ItemSet.from_mask(trie, np.array([is_in]))])
        expected = [[int(is_in and not exclude)]]
        assert item_filter.num_allowed(0, root).tolist() == item_filter.num_allowed(2, leaf).tolist() == expected


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
    with pytest.raises(DataError, match="within has 1 sets for 2 histories"):
        ItemFilter.from_lists(trie, 2, within=[None])
    with pytest.raises(DataError, match="a mask of 2 items for a catalogue of 3"):
        ItemSet.from_mask(trie, np.array([True, False]))
    other = Trie.from_codes(np.array([[0], [1], [2]]), (3,))
    with pytest.raises(DataError, match="another tree"):
        ItemFilter.from_lists(trie, 1, within=[ItemSet.everything(other)])
