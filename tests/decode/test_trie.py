import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError
from itemic.decode.trie import Trie


def test_small_trie_by_hand() -> None:
    codes = np.array([[1, 0], [0, 2], [1, 0], [0, 1]])
    trie = Trie.from_codes(codes, (2, 3))
    assert trie.item_of_slot.tolist() == [3, 1, 0, 2]
    assert trie.slot_of_item.tolist() == [2, 1, 3, 0]
    assert [array.tolist() for array in trie.codes] == [[0, 1], [1, 2, 0]]
    assert [array.tolist() for array in trie.child_start] == [[0, 2], [0, 2, 3]]
    assert [array.tolist() for array in trie.slot_start] == [[0, 4], [0, 2, 4], [0, 1, 2, 4]]
    assert (trie.max_children, trie.max_items) == ((2, 2), 2)
    assert (trie.num_levels, trie.num_items, trie.num_leaves) == (2, 4, 3)


def test_items_of_leaves_shared_or_not() -> None:
    shared = Trie.from_codes(np.array([[1, 0], [0, 2], [1, 0], [0, 1]]), (2, 3))
    assert shared.items(torch.tensor([[2, -1], [0, 1]])).tolist() == [[[0, 2], [-1, -1]], [[3, -1], [1, -1]]]
    unique = Trie.from_codes(np.array([[1, 0], [0, 2], [0, 1]]), (2, 3))
    assert unique.items(torch.tensor([2, -1, 0])).tolist() == [[0], [-1], [2]]
    assert repr(shared) == "Trie(4 items, 3 leaves, sizes (2, 3), on cpu)"


def test_children_repeat_the_first_one_where_there_are_no_more() -> None:
    trie = Trie.from_codes(np.array([[0, 1], [0, 2], [1, 0]]), (2, 3))
    child, is_child = trie.children(1, torch.tensor([[1, 0]]))
    assert child.tolist() == [[[2, 2], [0, 1]]]
    assert is_child.tolist() == [[[True, False], [True, True]]]


def test_the_path_to_a_leaf() -> None:
    trie = Trie.from_codes(np.array([[0, 1], [0, 2], [1, 0], [1, 0]]), (2, 3))
    path = trie.path(torch.tensor([[2, -1], [0, 1]]))
    assert [nodes.tolist() for nodes in path] == [[[0, -1], [0, 0]], [[1, -1], [0, 0]], [[2, -1], [0, 1]]]


def test_removed_items_leave_no_path(make_catalog) -> None:
    catalog = make_catalog([[0, 0], [0, 1], [1, 1]], (2, 2)).remove([2])
    trie = Trie.from_catalog(catalog)
    assert trie.codes[0].tolist() == [0]
    assert trie.slot_of_item.tolist() == [0, 1, -1]
    with pytest.raises(CatalogError, match="none of them active"):
        Trie.from_catalog(catalog.remove([0, 1]))


def test_bad_codes_are_named() -> None:
    with pytest.raises(CatalogError, match="item index 1 has code 3 at level 1; its codebook has 3"):
        Trie.from_codes(np.array([[0, 0], [0, 3]]), (2, 3))
    with pytest.raises(CatalogError, match="2 codes"):
        Trie.from_codes(np.array([[0, 0]]), (2, 3, 4))


@settings(max_examples=60)
@given(st.data())
def test_every_path_is_an_item_and_every_item_a_path(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    num_items = data.draw(st.integers(1, 30))
    codes = np.stack(
        [data.draw(hnp.arrays(np.int64, num_items, elements=st.integers(0, size - 1))) for size in sizes], axis=1
    )
    active = data.draw(hnp.arrays(bool, num_items))
    active[0] = True
    trie = Trie.from_codes(codes, sizes, active)
    found = {}
    stack = [(0, 0, ())]
    while stack:
        depth, node, path = stack.pop()
        first, last = trie.slots(depth, torch.tensor([node]))
        assert last > first
        if depth == len(sizes):
            found[path] = trie.item_of_slot[int(first) : int(last)].tolist()
            continue
        child, is_child = trie.children(depth, torch.tensor([node]))
        real = child[is_child].tolist()
        assert sorted(set(real)) == real
        stack += [(depth + 1, each, (*path, int(trie.codes[depth][each]))) for each in real]
    expected: dict[tuple[int, ...], list[int]] = {}
    for item in np.flatnonzero(active):
        expected.setdefault(tuple(codes[item].tolist()), []).append(int(item))
    assert found == expected
    assert len(found) == trie.num_leaves
    assert sum(map(len, found.values())) == trie.num_items
