"""A prior in the search: equal to brute force where beams cover the level, filters, ties, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import ConfigError, DataError
from itemic.decode import Policy, Trie, constrained_beam_search, search_with_prior
from itemic.decode.prior import best_below

SIZES = (3, 4, 3)
NUM_ITEMS = 12
PROMPTS = [[1, 2, 3], [4], [5, 6]]


def make_trie(*, shares: bool, seed: int = 0) -> Trie:
    """Twelve items on distinct leaves, or on five that they share."""
    rng = np.random.default_rng(seed)
    every = np.array([[a, b, c] for a in range(3) for b in range(4) for c in range(3)])
    drawn = rng.choice(len(every), 5 if shares else NUM_ITEMS, replace=False)
    return Trie.from_codes(every[rng.permutation(np.resize(drawn, NUM_ITEMS))], SIZES)


def logprob_of_items(policy: Policy, trie: Trie, normalize: str) -> torch.Tensor:
    """The model's log-probability of every item, by a beam search that covers the tree."""
    beams = constrained_beam_search(policy, PROMPTS, trie, NUM_ITEMS, normalize)
    logprob = torch.full((len(PROMPTS), NUM_ITEMS), -torch.inf, dtype=torch.float64)
    for row in range(len(PROMPTS)):
        for leaf, value in zip(beams.leaf[row].tolist(), beams.logprob[row], strict=True):
            if leaf >= 0:
                first, last = trie.slots(trie.num_levels, torch.tensor(leaf))
                logprob[row, trie.item_of_slot[int(first) : int(last)].long()] = value
    return logprob


@settings(max_examples=25)
@given(
    seed=st.integers(0, 5),
    shares=st.booleans(),
    normalize=st.sampled_from(["legal", "full"]),
    weight=st.sampled_from([0.3, 1.0, 2.5]),
    k=st.integers(1, NUM_ITEMS + 2),
    share_closed=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_covering_beams_equal_brute_force(fake_policy, seed, shares, normalize, weight, k, share_closed):
    policy, trie = fake_policy(SIZES, seed), make_trie(shares=shares, seed=seed)
    rng = np.random.default_rng(seed)
    prior = rng.integers(-3, 3, size=(len(PROMPTS), NUM_ITEMS)).astype(np.float64)
    prior[rng.random(prior.shape) < share_closed] = -np.inf
    found = search_with_prior(
        policy, PROMPTS, trie, torch.from_numpy(prior), k, num_beams=NUM_ITEMS, weight=weight, normalize=normalize
    )
    wanted = weight * logprob_of_items(policy, trie, normalize) + torch.from_numpy(prior)
    ordered = wanted.sort(dim=1, descending=True).values
    ordered = torch.nn.functional.pad(ordered, (0, 2), value=-torch.inf)
    torch.testing.assert_close(found.score, ordered[:, :k])
    is_listed = found.item >= 0
    assert (is_listed == (found.score > -torch.inf)).all()
    for row in range(len(PROMPTS)):
        items = found.item[row][is_listed[row]]
        assert len(set(items.tolist())) == len(items)
        torch.testing.assert_close(wanted[row, items], found.score[row][is_listed[row]])


def test_narrow_beams_follow_the_prior(fake_policy):
    """One beam finds the item that a strong prior names, which the model alone would not look at."""
    policy, trie = fake_policy(SIZES), make_trie(shares=False)
    for item in range(NUM_ITEMS):
        prior = torch.zeros(len(PROMPTS), NUM_ITEMS, dtype=torch.float64)
        prior[:, item] = 1000
        found = search_with_prior(policy, PROMPTS, trie, prior, 1, num_beams=1)
        assert found.item[:, 0].tolist() == [item] * len(PROMPTS)


def test_no_prior_is_the_plain_search(fake_policy):
    policy, trie = fake_policy(SIZES), make_trie(shares=False)
    beams = constrained_beam_search(policy, PROMPTS, trie, NUM_ITEMS)
    found = search_with_prior(policy, PROMPTS, trie, torch.zeros(3, NUM_ITEMS, dtype=torch.float64), 4, num_beams=12)
    torch.testing.assert_close(found.score, beams.logprob[:, :4])
    assert found.item.tolist() == trie.item_of_slot[beams.leaf[:, :4]].tolist()


def test_ties_beyond_the_list_are_counted(fake_policy):
    """Five leaves for twelve items: whatever shares the last one's leaf ties with it."""
    policy, trie = fake_policy(SIZES), make_trie(shares=True)
    prior = torch.zeros(3, NUM_ITEMS, dtype=torch.float64)
    whole = search_with_prior(policy, PROMPTS, trie, prior, NUM_ITEMS, num_beams=5)
    for k in range(1, NUM_ITEMS):
        short = search_with_prior(policy, PROMPTS, trie, prior, k, num_beams=5)
        level = (whole.score == short.score[:, -1:])[:, k:].sum(dim=1)
        assert short.num_tied_beyond.tolist() == level.tolist()


def test_the_best_below_a_node_is_the_best_of_its_items():
    trie = Trie.from_codes(np.array([[0, 0, 0], [0, 1, 0], [2, 0, 1]]), SIZES)
    best = best_below(trie, torch.tensor([[1.0, 3.0, -2.0]]))
    assert [level.tolist() for level in best] == [[[3.0]], [[3.0, -2.0]], [[1.0, 3.0, -2.0]], [[1.0, 3.0, -2.0]]]


def test_refusals(fake_policy):
    policy, trie = fake_policy(SIZES), make_trie(shares=False)
    prior = torch.zeros(3, NUM_ITEMS)
    with pytest.raises(ConfigError, match=r"must be above 0, found 0\.0"):
        search_with_prior(policy, PROMPTS, trie, prior, 1, num_beams=1, weight=0.0)
    with pytest.raises(DataError, match=r"shape \(3, 12\), found \(2, 12\)"):
        search_with_prior(policy, PROMPTS, trie, prior[:2], 1, num_beams=1)
    with pytest.raises(DataError, match="finite or -inf"):
        search_with_prior(policy, PROMPTS, trie, prior + torch.inf, 1, num_beams=1)
    assert search_with_prior(policy, [], trie, prior[:0], 2, num_beams=1).item.shape == (0, 2)
