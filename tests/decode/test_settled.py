"""What is certain is not read: fewer tokens, the same answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.decode import (
    ItemFilter,
    Trie,
    constrained_beam_search,
    sample_with_replacement,
    sample_without_replacement,
)
from itemic.decode.candidates import Nodes
from itemic.decode.walk import Walk, _find_unsettled

SIZES = (3, 4, 3, 2)
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6]]


def search_all(policy, trie, allowed) -> list[torch.Tensor]:
    beams = constrained_beam_search(policy, PROMPTS, trie, 7, allowed=allowed)
    drawn = sample_with_replacement(policy, PROMPTS, trie, 9, seed=1, allowed=allowed)
    distinct = sample_without_replacement(policy, PROMPTS, trie, 5, seed=1, allowed=allowed)
    return [each for found in (beams, drawn, distinct) for each in (found.leaf, found.logprob)]


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), num_items=st.integers(1, 60), is_filtered=st.booleans())
def test_answers_are_those_of_reading_everything(fake_policy, seed, num_items, is_filtered) -> None:
    rng = np.random.default_rng(seed)
    policy = fake_policy(SIZES, seed=seed)
    trie = Trie.from_codes(rng.integers(0, SIZES, (num_items, 4)), SIZES)
    lists = [rng.permutation(num_items)[: rng.integers(0, num_items)].tolist() for _ in PROMPTS]
    allowed = ItemFilter.from_lists(trie, len(PROMPTS), exclude=lists) if is_filtered else None
    found = search_all(policy, trie, allowed)
    with pytest.MonkeyPatch.context() as patch:
        start = Walk.__init__

        def read_everything(walk, *args) -> None:
            start(walk, *args)
            walk._skips_settled = False

        patch.setattr(Walk, "__init__", read_everything)
        expected = search_all(policy, trie, allowed)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("is_shared", [False, True])
def test_whether_one_leaf_is_below_by_hand(is_shared) -> None:
    sids = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2, 2, 1), (2, 2, 2)]
    trie = Trie.from_codes(np.array([*sids, *([(1, 0, 0)] * 2 if is_shared else [])]), (3, 3, 3))
    assert trie.has_one_leaf(0, torch.tensor([0])).tolist() == [False]
    assert trie.has_one_leaf(1, torch.arange(3)).tolist() == [False, True, False]
    assert trie.has_one_leaf(2, torch.tensor([[0, 1], [2, 3]])).tolist() == [[False, True], [True, False]]
    assert trie.has_one_leaf(3, torch.arange(6)).all()


def test_what_is_read_by_hand() -> None:
    """Node 0 and 2 lead to two leaves each, node 1 to one."""
    trie = Trie.from_codes(np.array([(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]), (3, 3))
    node = torch.tensor([[2, 1, 0, 2], [0, 0, 1, 0], [1, 1, 2, 1]])
    logprob = torch.zeros(3, 4)
    logprob[2, 2] = -torch.inf
    place, column = _find_unsettled(trie, 1, Nodes(node, logprob, num_items=node, parent=node))
    assert place.shape == (3, 2)
    assert node.gather(1, place)[:2].tolist() == [[0, 2], [0, 0]]
    assert column[0, [0, 2, 3]].tolist() == [1, 0, 1]
    assert column[1, [0, 1, 3]].tolist() == [0, 0, 0]


def count_tokens(policy, monkeypatch) -> list[int]:
    counts: list[int] = []
    hidden = policy.hidden

    def count(input_ids, *args, **kwargs):
        counts.append(input_ids.shape[1])
        return hidden(input_ids, *args, **kwargs)

    monkeypatch.setattr(policy, "hidden", count)
    return counts


def test_only_what_is_open_is_read_and_once(uniform_policy, monkeypatch) -> None:
    policy = uniform_policy((3, 2, 2, 2))
    codes = [(0, 0, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0), (2, 0, 1, 0)]
    trie = Trie.from_codes(np.array(codes), (3, 2, 2, 2))
    counts = count_tokens(policy, monkeypatch)
    beams = constrained_beam_search(policy, [[1, 2]], trie, 5)
    # Below the root two nodes lead on, then one; of the leaves' parents none is read.
    assert counts == [2, 2, 1]
    np.testing.assert_allclose(beams.logprob[0].exp().sort().values, [1 / 6] * 4 + [1 / 3])
    counts.clear()
    sample_with_replacement(policy, [[1, 2]], trie, 200, seed=0)
    assert counts == [2, 2, 1]
    counts.clear()
    constrained_beam_search(policy, [[1, 2]], trie, 5, "full")
    assert counts == [2, 3, 4, 5]


def test_codes_without_a_choice_are_read_with_those_that_follow(uniform_policy, monkeypatch) -> None:
    policy = uniform_policy((2, 2, 2, 2, 2))
    codes = [(0, 0, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 1, 0, 1), (1, 0, 0, 0, 0)]
    counts = count_tokens(policy, monkeypatch)
    beams = constrained_beam_search(policy, [[1, 2]], Trie.from_codes(np.array(codes), (2,) * 5), 5)
    # After (0) there is only (0, 0): both are read at once; and so are (0, 0, 1) and (0, 0, 1, 0).
    assert counts == [2, 2, 2]
    np.testing.assert_allclose(beams.logprob[0, :4].exp(), [1 / 2, 1 / 4, 1 / 8, 1 / 8])
