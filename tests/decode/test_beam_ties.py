"""Beam search where many scores are equal and where the tree is smaller than the beam."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.decode.beam import constrained_beam_search
from itemic.decode.filters import ItemFilter
from itemic.decode.naive import score_catalog
from itemic.decode.trie import Trie

PROMPTS = [[3, 1, 4], [9]]


@st.composite
def catalogs(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    sid = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return sizes, draw(st.lists(sid, min_size=1, max_size=25))


@settings(max_examples=60)
@given(data=st.data())
def test_among_ties_any_leaf_is_listed_but_each_once_and_with_its_own_score(data, uniform_policy) -> None:
    """Under a uniform model nearly everything ties: which nodes go on is open, what is said of them is not."""
    sizes, sids = data.draw(catalogs())
    num_beams = data.draw(st.integers(1, 30))
    exclude = data.draw(st.lists(st.integers(0, len(sids) - 1)))
    policy, trie = uniform_policy(sizes), Trie.from_codes(np.array(sids), sizes)
    allowed = ItemFilter.from_lists(trie, 2, exclude=[exclude, []])
    result = constrained_beam_search(policy, PROMPTS, trie, num_beams, allowed=allowed)
    leaves = sorted(set(sids))
    score = score_catalog(policy, PROMPTS[0], leaves, "legal")
    for row, forbidden in enumerate((exclude, [])):
        num_items = Counter(sid for item, sid in enumerate(sids) if item not in forbidden)
        open_leaves = [leaf for leaf, sid in enumerate(leaves) if num_items[sid]]
        listed = [leaf for leaf in result.leaf[row].tolist() if leaf >= 0]
        assert set(listed) <= set(open_leaves)
        assert len(listed) == len(set(listed)) == min(num_beams, len(open_leaves))
        found = result.logprob[row, : len(listed)].numpy()
        np.testing.assert_allclose(found, score[listed])
        assert (np.diff(found) <= 0).all()
        if num_beams < max(trie.num_nodes(depth) for depth in range(len(sizes))):
            continue
        # All nodes above the leaves were kept: the list is the best there is, and every tie was seen.
        np.testing.assert_allclose(found, np.sort(score[open_leaves])[::-1][: len(listed)])
        tied = [
            leaf for leaf in open_leaves if leaf not in listed and len(found) and np.isclose(score[leaf], found[-1])
        ]
        expected = sum(num_items[leaves[leaf]] for leaf in tied) if len(listed) == num_beams else 0
        assert result.num_tied_beyond[row] == expected


def test_a_chain_a_comb_and_a_single_level(fake_policy) -> None:
    """Fewer children than beams at some levels and more at others."""
    shapes = {
        (4, 4, 4): [(2, 1, 3)],
        (1, 1, 5): [(0, 0, code) for code in range(5)],
        (5, 1, 1): [(code, 0, 0) for code in range(5)],
        (7,): [(code,) for code in range(7)],
        (3, 3, 3): [(0, 0, 0), (0, 1, 0), (0, 1, 1), (2, 2, 0), (2, 2, 1), (2, 2, 2)],
    }
    for sizes, sids in shapes.items():
        policy, trie = fake_policy(sizes), Trie.from_codes(np.array(sids), sizes)
        for num_beams in (1, 2, 4, 50):
            result = constrained_beam_search(policy, PROMPTS, trie, num_beams)
            score = torch.tensor(np.array([score_catalog(policy, prompt, sids, "legal") for prompt in PROMPTS]))
            if num_beams >= max(trie.num_nodes(depth) for depth in range(len(sizes))):
                expected = score.sort(dim=1, descending=True)
                width = min(num_beams, len(sids))
                assert result.leaf[:, :width].tolist() == expected.indices[:, :width].tolist()
                torch.testing.assert_close(result.logprob[:, :width], expected.values[:, :width])
            assert (result.leaf[:, len(sids) :] == -1).all()
            assert result.logprob[:, len(sids) :].isneginf().all()
