"""What every search refuses: another tree's filter, other requests than prompts, and scores that are no numbers."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from itemic.core.errors import ArtifactError, DataError
from itemic.decode import ItemFilter, Trie, constrained_beam_search
from itemic.decode.stochastic import sample_with_replacement, sample_without_replacement
from itemic.decode.think import ThinkConfig, think_then_recommend
from itemic.language.thoughts import ThoughtTokens

SIZES = (3, 4)
CODES = np.array(list(product(range(3), range(4))))
PROMPTS = [[1, 2], [3]]
FRAME = ThoughtTokens(stop_ids=(6,), then_ids=(5,))
SEARCHES: dict[str, Callable[..., Any]] = {
    "beam": constrained_beam_search,
    "with replacement": partial(sample_with_replacement, seed=0),
    "without": partial(sample_without_replacement, seed=0),
    "thoughts": partial(think_then_recommend, frame=FRAME, config=ThinkConfig(max_new_tokens=0, allows_sids=True)),
}
every_search = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())


def make_trie(codes: np.ndarray = CODES) -> Trie:
    return Trie.from_codes(codes, SIZES)


@every_search
@pytest.mark.parametrize("num_requests", [1, 3])
def test_a_filter_of_other_requests_is_refused(fake_policy, search, num_requests) -> None:
    trie = make_trie()
    allowed = ItemFilter.from_lists(trie, num_requests, exclude=[[0]] * num_requests)
    with pytest.raises(DataError, match=f"has {num_requests} requests; expected 2"):
        search(fake_policy(SIZES), PROMPTS, trie, 3, allowed=allowed)


@every_search
def test_a_filter_of_another_tree_is_refused(fake_policy, search) -> None:
    allowed = ItemFilter.from_lists(make_trie(CODES[:7]), 2, exclude=[[0], []])
    with pytest.raises(DataError, match=r"a tree of 7 items on cpu; expected .* of 12 items"):
        search(fake_policy(SIZES), PROMPTS, make_trie(), 3, allowed=allowed)


@every_search
@pytest.mark.parametrize("num_bad", [1, 2])
def test_scores_that_are_no_numbers_are_no_answers(fake_policy, search, num_bad) -> None:
    policy = fake_policy(SIZES)
    policy.embedding[[PROMPTS[row][-1] for row in range(num_bad)]] = torch.nan
    with pytest.raises(ArtifactError, match=f"NaN for {num_bad} of a batch of 2"):
        search(policy, PROMPTS, make_trie(), 3)


@every_search
def test_no_prompts_give_no_rows(fake_policy, search) -> None:
    found = search(fake_policy(SIZES), [], make_trie(), 3)
    beams = found[1] if isinstance(found, tuple) else found
    assert beams.leaf.shape == beams.logprob.shape == (0, 3)
