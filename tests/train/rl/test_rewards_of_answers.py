"""Rewards that look at the answers alone: exact match, shared prefix, rank, form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.decode.trie import Trie
from itemic.train.rl.answers import Answers, AnswerTree, Question
from itemic.train.rl.rewards.matches import prefix, rule, well_formed, well_formed_and_unseen
from itemic.train.rl.rewards.ranks import rank, rank_if_hit

CODES = [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 2, 0], [2, 0, 0]]
"""In the order of the tree, so that an item's index is its leaf."""


def answers(leaves, targets, *, codes=CODES, histories=None, logprobs=None):
    """Answers in beam order unless log-probabilities are given; -1 for no candidate."""
    codes = np.array(codes)
    leaf = torch.tensor(leaves)
    if logprobs is None:
        logprobs = -torch.arange(1.0, leaf.shape[1] + 1).expand(leaf.shape)
    histories = histories or [()] * len(leaves)
    return Answers(
        questions=[
            Question(task=0, prompt=[0], history=history, targets=each)
            for history, each in zip(histories, targets, strict=True)
        ],
        tree=AnswerTree(
            trie=Trie.from_codes(codes, (codes.max(axis=0) + 1).tolist()),
            level_ids=tuple(np.arange(4) for _ in range(3)),
        ),
        leaf=leaf,
        logprob=torch.as_tensor(logprobs).masked_fill(leaf < 0, -torch.inf),
    )


def assert_rewards(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_rule_is_one_on_each_hit():
    assert_rewards(rule(answers([[0, 3, 5], [4, -1, 2]], [[3], [1]])), [[0, 1, 0], [0, 0, 0]])


def test_rule_takes_any_of_several_targets_and_every_draw_of_one():
    assert_rewards(rule(answers([[0, 3, 3, 5], [0, 1, 2, 4]], [[3, 0], [5]])), [[1, 1, 1, 0], [0, 0, 0, 0]])


def test_prefix_counts_leading_codes_only():
    # Item 3 (1, 0, 0) agrees with item 0 (0, 0, 0) in its last two codes, which lead nowhere.
    assert_rewards(prefix(answers([[0, 1, 2, 3, -1]], [[0]])), [[1, 2 / 3, 1 / 3, 0, 0]])


def test_prefix_is_that_of_the_best_target():
    assert_rewards(prefix(answers([[1, 4, 5], [1, 4, 5]], [[0, 3], [5]])), [[2 / 3, 1 / 3, 0], [0, 0, 1]])


def test_items_on_one_leaf_match_in_full():
    shared = answers([[0, 1]], [[1]], codes=[[0, 0], [0, 0], [0, 1]])
    assert_rewards(prefix(shared), [[1, 1 / 2]])
    assert_rewards(rule(shared), [[1, 0]])


def test_a_target_that_is_not_in_the_tree_matches_nothing():
    codes = np.array(CODES)
    removed = Trie.from_codes(codes, (3, 3, 2), np.arange(6) != 0)
    one = answers([[0, 1]], [[0]])
    one = Answers(
        questions=one.questions, tree=AnswerTree(trie=removed, level_ids=()), leaf=one.leaf, logprob=one.logprob
    )
    assert_rewards(prefix(one), [[0, 0]])
    assert_rewards(rule(one), [[0, 0]])


def shares(*places):
    """Penalties of the given places: (1 / log2(place + 1)) over the sum of all."""
    weights = [1 / math.log2(place + 1) for place in places]
    return [-weight / sum(weights) for weight in weights]


def test_a_miss_pays_by_its_place():
    first, _, third = shares(1, 2, 3)
    # log2(3 + 1) = 2 and log2(1 + 1) = 1: the third place pays half of what the first does.
    assert third == first / 2
    assert_rewards(rank(answers([[0, 1, 2]], [[1]])), [[first, 0, third]])


def test_places_are_by_log_probability_not_by_column():
    first, second, third = shares(1, 2, 3)
    assert_rewards(rank(answers([[0, 1, 2]], [[5]], logprobs=[[-3.0, -1.0, -2.0]])), [[third, first, second]])


def test_the_reference_s_formula_is_reproduced():
    """``ndcg_rewards`` of MiniOneRec's rl.py, for a group of sixteen whose fifth candidate hits."""
    reference = [-1.0 / math.log2(i + 2) for i in range(16)]
    reference = [-each / sum(reference) for each in reference]
    reference[4] = 0.0
    codes = [[item // 4, item % 4, 0] for item in range(16)]
    group = answers([list(range(16))], [[4]], codes=codes)
    assert_rewards(rank(group), [reference])
    assert_rewards(rank_if_hit(group), [reference])
    assert_rewards(rule(group) + rank(group), [[1.0 if i == 4 else each for i, each in enumerate(reference)]])


def test_a_group_without_a_hit_is_penalised_by_one_and_left_alone_by_the_other():
    two = answers([[0, 1], [0, 1]], [[5], [0]])
    first, second = shares(1, 2)
    assert_rewards(rank(two), [[first, second], [0, second]])
    assert_rewards(rank_if_hit(two), [[0, 0], [0, second]])


def test_missing_candidates_take_no_share():
    first, second = shares(1, 2)
    assert_rewards(rank(answers([[0, -1, 2], [-1, -1, -1]], [[5], [5]])), [[first, 0, second], [0, 0, 0]])


def test_equal_draws_have_places_of_their_own():
    first, second, third = shares(1, 2, 3)
    assert_rewards(rank(answers([[0, 0, 2]], [[5]], logprobs=[[-1.0, -1.0, -2.0]])), [[first, second, third]])


def test_a_group_of_hits_has_nothing_to_pay():
    assert_rewards(rank(answers([[3, 3]], [[3]])), [[0, 0]])


def test_repeated_and_missing_answers_are_not_well_formed():
    some = answers([[2, 0, 2, -1, -1, 0], [1, 2, 3, 4, 5, -1]], [[0], [0]])
    assert_rewards(well_formed(some), [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]])


def test_what_the_history_rules_out_is_not_well_formed():
    some = answers([[0, 1, 2], [0, 1, 2]], [[5], [5]], histories=[(1, 4, 1), ()])
    assert_rewards(well_formed_and_unseen(some), [[1, 0, 1], [1, 1, 1]])
    assert_rewards(well_formed(some), [[1, 1, 1], [1, 1, 1]])


def test_a_shared_leaf_is_ruled_out_when_all_its_items_are_seen():
    codes = [[0, 0], [0, 0], [0, 1]]
    some = answers([[0, 1]] * 3, [[2]] * 3, codes=codes, histories=[(0,), (0, 1), (0, 0)])
    assert_rewards(well_formed_and_unseen(some), [[1, 1], [0, 1], [1, 1]])


def test_no_history_at_all_rules_out_nothing():
    assert_rewards(well_formed_and_unseen(answers([[0, 0]], [[5]])), [[1, 0]])


@st.composite
def groups(draw):
    """Arguments of ``answers``, which is called in the test: its checked annotations draw random numbers."""
    num_questions, group_size = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    leaf = st.lists(st.integers(-1, 5), min_size=group_size, max_size=group_size)
    items = st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)
    number = st.lists(st.floats(-9, 0), min_size=group_size, max_size=group_size)
    rows = [draw(st.tuples(leaf, items, items, number)) for _ in range(num_questions)]
    leaves, targets, histories, logprobs = map(list, zip(*rows, strict=True))
    return {"leaves": leaves, "targets": targets, "histories": histories, "logprobs": logprobs}


@given(groups())
@settings(max_examples=60)
def test_what_holds_for_every_group(drawn):
    some = answers(**drawn)
    hits, misses = some.is_hit, some.is_candidate & ~some.is_hit
    matched, ranked = rule(some), rank(some)
    assert set(matched.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(prefix(some) == 1, hits)
    assert ((prefix(some) * 3 - (prefix(some) * 3).round()).abs() < 1e-6).all()
    assert (ranked[misses] < 0).all()
    assert (ranked[~misses] == 0).all()
    without_hit = ~hits.any(dim=1) & misses.any(dim=1)
    torch.testing.assert_close(ranked.sum(dim=1)[without_hit], torch.full((int(without_hit.sum()),), -1.0))
    assert (ranked.sum(dim=1) > -1 - 1e-6).all()
    assert (rank_if_hit(some)[~hits.any(dim=1)] == 0).all()
    for reward in (matched, prefix(some), ranked, rank_if_hit(some), well_formed(some), well_formed_and_unseen(some)):
        assert reward.dtype == torch.float32
        assert reward.isfinite().all()
        assert (reward[~some.is_candidate] == 0).all()
    for leaves, formed in zip(some.leaf.tolist(), well_formed(some).tolist(), strict=True):
        assert sum(formed) == len(set(leaves) - {-1})


@given(groups())
@settings(max_examples=30)
def test_prefix_is_the_one_of_the_codes(drawn):
    some = answers(**drawn)
    for question, leaves, rewards in zip(some.questions, some.leaf.tolist(), prefix(some).tolist(), strict=True):
        for leaf, reward in zip(leaves, rewards, strict=True):
            shared = [shared_codes(CODES[leaf], CODES[target]) for target in question.targets]
            assert reward == pytest.approx(max(shared) / 3 if leaf >= 0 else 0)


def shared_codes(left, right):
    return next((level for level in range(3) if left[level] != right[level]), 3)
