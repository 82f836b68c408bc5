from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import DataError
from itemic.language.corpus import windows
from itemic.language.packing import Group, TreeRow, pack_rows, rows_to_batch, visible
from itemic.language.prompts import TokenExample


def example(prompt: list[int], answer: list[int]) -> TokenExample:
    tokens = np.array([*prompt, *answer])
    return TokenExample(tokens, np.arange(len(tokens)) >= len(prompt))


def lessons(rows: list[TreeRow]) -> list[tuple[tuple[int, ...], int, int]]:
    """Every label of a batch with the tokens it is predicted from, read off the mask alone."""
    packed = rows_to_batch(rows, pad_token=0)
    sees = visible(torch.from_numpy(packed.subtree_end))[:, 0].numpy()
    found = []
    for position, token, task in zip(packed.label_position, packed.label_token, packed.label_task, strict=True):
        row, column = packed.position_row[position], packed.position_column[position]
        context = np.flatnonzero(sees[row, column])
        assert packed.position_ids[row, context].tolist() == list(range(len(context)))
        found.append((tuple(packed.input_ids[row, context].tolist()), int(token), int(task)))
    return sorted(found)


def wanted(groups: list[Group]) -> list[tuple[tuple[int, ...], int, int]]:
    return sorted(
        (tuple(each.tokens[:place].tolist()), int(each.tokens[place]), group.task)
        for group in groups
        for each in group.examples
        for place in np.flatnonzero(each.is_label)
    )


def test_shared_prefixes_are_written_once() -> None:
    group = Group([example([1, 2], [3, 4]), example([1, 2, 3, 4, 9], [5, 6]), example([1, 2], [7, 8])], 0)
    (row,) = pack_rows([group], row_tokens=32)
    assert np.concatenate(row.tokens).tolist() == [1, 2, 3, 4, 9, 5, 7]
    assert row.ends.tolist() == [7, 7, 6, 6, 6, 6, 7]
    assert row.num_labels == 6


tokens = st.integers(1, 4)
examples = st.builds(example, st.lists(tokens, min_size=1, max_size=6), st.lists(tokens, min_size=1, max_size=3))
groups_strategy = st.lists(
    st.tuples(st.lists(examples, min_size=1, max_size=6), st.integers(0, 1)), min_size=1, max_size=6
)


@settings(max_examples=200)
@given(drawn=groups_strategy, row_tokens=st.integers(9, 40))
def test_packing_teaches_exactly_the_examples_whatever_the_row_size(
    drawn: list[tuple[list[TokenExample], int]], row_tokens: int
) -> None:
    groups = [Group(members, task) for members, task in drawn]
    rows = pack_rows(groups, row_tokens)
    assert lessons(rows) == wanted(groups)
    assert all(row.num_tokens <= row_tokens for row in rows)


def test_an_example_longer_than_a_row_is_an_error_not_a_cut() -> None:
    with pytest.raises(DataError, match="has 9 tokens, but a row holds 8"):
        pack_rows([Group([example(list(range(9)), [1])], 0)], row_tokens=8)


def test_padding_sees_itself_alone() -> None:
    rows = [*pack_rows([Group([example([1, 2, 3], [4])], 0)], 8), *pack_rows([Group([example([1], [2])], 0)], 8)]
    packed = rows_to_batch(rows, pad_token=0, multiple=4)
    assert packed.input_ids.shape == (2, 4)
    sees = visible(torch.from_numpy(packed.subtree_end))[1, 0]
    assert torch.equal(sees, torch.eye(4, dtype=torch.bool))
    assert packed.position_ids[1].tolist() == [0, -1, -1, -1]


@given(st.integers(0, 300), st.integers(1, 60), st.data())
def test_windows_label_every_position_once_within_the_history_bound(
    length: int, max_history: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, max_history))
    offset = data.draw(st.integers(0, stride - 1))
    cut = windows(length, max_history, stride, offset)
    labelled = [start + position for start, stop, first in cut for position in range(first, stop - start)]
    assert labelled == list(range(length))
    assert all(stop - start <= max_history + 1 for start, stop, _ in cut)
    for start, _, first in cut:
        assert start == 0 or first >= max_history + 1 - stride


def test_windows_by_hand() -> None:
    assert windows(7, max_history=3, stride=2, offset=0) == [(0, 3, 0), (1, 5, 2), (3, 7, 2)]
    assert windows(0, 3, 2, 0) == []
    assert Fraction(sum(stop - start for start, stop, _ in windows(7, 3, 2, 0)), 7) == Fraction(11, 7)
