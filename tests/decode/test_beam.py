import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError, ConfigError, DataError
from itemic.decode.beam import BeamResult, constrained_beam_search
from itemic.decode.filters import ItemFilter
from itemic.decode.naive import naive_beam_search, score_catalog
from itemic.decode.trie import Trie

Sid = tuple[int, ...]
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6], [5, 3, 5, 8, 9, 7, 9]]


def listed_sids(result: BeamResult, sids: list[Sid]) -> list[list[Sid]]:
    """Leaves are the distinct SIDs in sorted order."""
    ordered = sorted(set(sids))
    return [[ordered[leaf] for leaf in row if leaf >= 0] for row in result.leaf.tolist()]


def to_trie(sids: list[Sid], sizes: tuple[int, ...]) -> Trie:
    return Trie.from_codes(np.array(sids), sizes)


@st.composite
def catalogs(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Sid]]:
    """Trees of any shape: uneven, thin, bushy, of one item, with shared SIDs."""
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    sid = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return sizes, draw(st.lists(sid, min_size=1, max_size=25))


@settings(max_examples=150)
@given(data=st.data())
def test_equals_the_naive_search(data: st.DataObject, fake_policy) -> None:
    sizes, sids = data.draw(catalogs())
    num_beams, normalize = data.draw(st.integers(1, 12)), data.draw(st.sampled_from(["legal", "full"]))
    policy = fake_policy(sizes, seed=data.draw(st.integers(0, 9)))
    exclude = data.draw(st.one_of(st.none(), st.lists(st.integers(0, len(sids) - 1))))
    trie = to_trie(sids, sizes)
    excluded = None if exclude is None else ItemFilter.from_lists(trie, len(PROMPTS), [exclude] * len(PROMPTS))
    result = constrained_beam_search(policy, PROMPTS, trie, num_beams, normalize, excluded, batch_size=3)
    kept = [sid for item, sid in enumerate(sids) if item not in (exclude or ())]
    for row, prompt in enumerate(PROMPTS):
        expected = naive_beam_search(policy, prompt, sids, num_beams, normalize, kept)
        assert listed_sids(result, sids)[row] == [sid for sid, _ in expected]
        found = result.logprob[row, : len(expected)]
        torch.testing.assert_close(found, torch.tensor([score for _, score in expected], dtype=torch.float64))
        assert torch.isneginf(result.logprob[row, len(expected) :]).all()
        assert (result.leaf[row, len(expected) :] == -1).all()


@pytest.mark.parametrize("normalize", ["legal", "full"])
def test_equals_exhaustive_scoring_where_the_beams_cover_the_tree(fake_policy, normalize) -> None:
    rng = np.random.default_rng(1)
    sizes = (5, 6, 7)
    sids = sorted({tuple(map(int, rng.integers(0, sizes))) for _ in range(60)})
    policy = fake_policy(sizes)
    result = constrained_beam_search(policy, PROMPTS, to_trie(sids, sizes), len(sids), normalize)
    for row, prompt in enumerate(PROMPTS):
        score = score_catalog(policy, prompt, sids, normalize)
        assert result.leaf[row].tolist() == np.argsort(-score).tolist()
        np.testing.assert_allclose(result.logprob[row], np.sort(score)[::-1])
        if normalize == "legal":
            assert result.logprob[row].exp().sum() == pytest.approx(1)


def test_uneven_tree_by_hand(uniform_policy) -> None:
    sids = [(0, 0), (0, 1), (0, 2), (1, 3)]
    policy, trie = uniform_policy((4, 4)), to_trie(sids, (4, 4))
    legal = constrained_beam_search(policy, [[0]], trie, 4, "legal")
    assert legal.leaf[0, 0] == 3
    expected = [Fraction(1, 2), Fraction(1, 6), Fraction(1, 6), Fraction(1, 6)]
    np.testing.assert_allclose(legal.logprob[0].exp(), [float(share) for share in expected])
    full = constrained_beam_search(policy, [[0]], trie, 4, "full")
    np.testing.assert_allclose(full.logprob[0], [2 * math.log(1 / 28)] * 4)


def test_ties_beyond_the_beams_are_counted_in_items(uniform_policy) -> None:
    sids = [(0, 0), (0, 0), (0, 1), (0, 2), (1, 3), (1, 3)]
    policy, trie = uniform_policy((4, 4)), to_trie(sids, (4, 4))
    listed = constrained_beam_search(policy, [[0]] * 2, trie, 2)
    # (1, 3) comes first with 1/2; of (0, 0), (0, 1), (0, 2) with 1/6 each, one is listed: 4 items less its own.
    sizes = torch.tensor([2, 1, 1, 2])
    assert (listed.num_tied_beyond == 4 - sizes[listed.leaf[:, 1]]).all()
    without = ItemFilter.from_lists(trie, 2, exclude=[[0], []])
    first = constrained_beam_search(policy, [[0]] * 2, trie, 2, allowed=without)
    assert first.num_tied_beyond[0] == 3 - torch.tensor([1, 1, 1, 2])[first.leaf[0, 1]]
    assert constrained_beam_search(policy, [[0]], trie, 4).num_tied_beyond.tolist() == [0]


def test_one_item_and_fewer_items_than_beams(fake_policy) -> None:
    policy = fake_policy((3, 3))
    one = constrained_beam_search(policy, PROMPTS, to_trie([(2, 1)], (3, 3)), 5, "legal")
    assert one.leaf.tolist() == [[0, -1, -1, -1, -1]] * len(PROMPTS)
    assert one.logprob[:, 0].tolist() == [0.0] * len(PROMPTS)


def test_a_filter_leaves_scores_alone_and_may_leave_nothing(fake_policy) -> None:
    sizes = (3, 4)
    sids = list(product(range(3), range(4)))
    policy, trie = fake_policy(sizes), to_trie(sids, sizes)
    everything = constrained_beam_search(policy, [PROMPTS[0]] * 3, trie, 12)
    allowed = ItemFilter.from_lists(trie, 3, allow=[[5, 7, 11], [], [1]], exclude=[[7], [0], [1]])
    result = constrained_beam_search(policy, [PROMPTS[0]] * 3, trie, 12, allowed=allowed)
    kept = [
        (leaf, score) for leaf, score in zip(everything.leaf[0], everything.logprob[0], strict=True) if leaf in (5, 11)
    ]
    assert result.leaf.tolist() == [[*(int(leaf) for leaf, _ in kept), *[-1] * 10], [-1] * 12, [-1] * 12]
    assert result.logprob[0, :2].tolist() == pytest.approx([float(score) for _, score in kept])
    assert not result.logprob.isnan().any()
    assert result.num_tied_beyond.tolist() == [0, 0, 0]


def test_filtered_subtrees_take_no_beam(fake_policy) -> None:
    """With one beam, the best allowed item under the best open prefix is found whatever lies under closed ones."""
    sizes = (6, 6)
    sids = list(product(range(6), range(6)))
    policy, trie = fake_policy(sizes), to_trie(sids, sizes)
    for only in range(36):
        result = constrained_beam_search(
            policy, PROMPTS[:1], trie, 1, allowed=ItemFilter.from_lists(trie, 1, allow=[[only]])
        )
        assert result.leaf.tolist() == [[only]]


def test_each_prompt_token_is_read_once(fake_policy) -> None:
    policy = fake_policy((4, 4, 4))
    trie = to_trie(list(product(range(4), repeat=3)), (4, 4, 4))
    constrained_beam_search(policy, [[1, 2, 3]] * 4, trie, 50)
    assert policy.num_prompt_tokens_read == 12


def test_batches_and_order_do_not_matter(fake_policy) -> None:
    policy = fake_policy((5, 5))
    trie = to_trie(list(product(range(5), repeat=2)), (5, 5))
    allowed = ItemFilter.from_lists(trie, 4, exclude=[[0], [1, 2], [], [24]])
    whole = constrained_beam_search(policy, PROMPTS, trie, 6, "full", allowed, batch_size=4)
    for batch_size in (1, 3):
        parts = constrained_beam_search(policy, PROMPTS, trie, 6, "full", allowed, batch_size=batch_size)
        assert parts.leaf.tolist() == whole.leaf.tolist()
        torch.testing.assert_close(parts.logprob, whole.logprob)
    none = constrained_beam_search(policy, [], trie, 6)
    assert none.leaf.shape == none.logprob.shape == (0, 6)


def test_bad_arguments_are_named(fake_policy) -> None:
    policy, trie = fake_policy((2, 2)), to_trie([(0, 0)], (2, 2))
    with pytest.raises(DataError, match="prompt 1 is empty"):
        constrained_beam_search(policy, [[1], []], trie, 1)
    with pytest.raises(ConfigError, match="num_beams must be at least 1, found 0"):
        constrained_beam_search(policy, [[1]], trie, 0)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, found 0"):
        constrained_beam_search(policy, [[1]], trie, 1, batch_size=0)
    with pytest.raises(CatalogError, match=r"speaks codebooks of \(2, 2\) codes, the catalog has \(2, 3\)"):
        constrained_beam_search(policy, [[1]], to_trie([(0, 0)], (2, 3)), 1)
