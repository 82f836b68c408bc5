import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.train.rl.advantages import group_advantages, has_equal_rewards

TRL = json.loads((Path(__file__).parent / "data" / "trl.json").read_text(encoding="utf-8"))
"""Numbers of TRL 1.16.0; the file says how they were made."""


def table(rows, empty=torch.nan):
    return torch.tensor([[empty if value is None else value for value in row] for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("case", TRL["advantages"], ids=lambda case: f"{case['name']}-{case['scale']}")
def test_advantages_are_those_of_trl(case):
    rewards = table(case["rewards"])
    found = group_advantages(rewards, ~rewards.isnan(), case["scale"])
    torch.testing.assert_close(found, table(case["advantages"]), atol=1e-6, rtol=1e-6)


def test_one_hit_in_four_without_scale_is_three_quarters_against_minus_one_quarter_each():
    rewards = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    found = group_advantages(rewards, torch.ones(1, 4, dtype=torch.bool), "none")
    assert found.tolist() == [[-1 / 4, 3 / 4, -1 / 4, -1 / 4]]


def test_deviations_are_unbiased_in_the_group_and_in_the_batch():
    rewards = torch.tensor([[0.0, 2.0], [0.0, 4.0]], dtype=torch.float64)
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    by_group = group_advantages(rewards, everywhere, "group", eps=0.0)
    torch.testing.assert_close(by_group, torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64) / 2**0.5)
    by_batch = group_advantages(rewards, everywhere, "batch", eps=0.0)
    deviation = (11 / 3) ** 0.5  # rewards 0, 2, 0, 4 around 3/2: squares 9/4 + 1/4 + 9/4 + 25/4 = 11, over n - 1 = 3
    expected = torch.tensor([[-1.0, 1.0], [-2.0, 2.0]], dtype=torch.float64) / deviation
    torch.testing.assert_close(by_batch, expected)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_give_exactly_nothing(scale):
    rewards = torch.full((3, 7), 0.7)  # 7 times 0.7 over 7 is not 0.7 in float32
    assert (rewards[0] - rewards[0].sum() / 7).any()
    rewards[1, 0], rewards[2, 1:] = 0.1, torch.nan
    is_candidate = ~rewards.isnan()
    found = group_advantages(rewards, is_candidate, scale)
    assert found[0].tolist() == [0.0] * 7
    assert found[2].tolist() == [0.0] * 7
    assert (found[1] != 0).all()
    assert has_equal_rewards(rewards, is_candidate).tolist() == [True, False, True]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_groups_without_candidates_get_zeros(scale):
    rewards = torch.full((2, 3), torch.nan)
    is_candidate = torch.zeros(2, 3, dtype=torch.bool)
    assert group_advantages(rewards, is_candidate, scale).tolist() == [[0.0] * 3] * 2
    assert has_equal_rewards(rewards, is_candidate).all()


GROUPS = st.lists(
    st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=4, max_size=4), min_size=1, max_size=3
)


@settings(max_examples=40)
@given(GROUPS, st.sampled_from(["group", "batch", "none"]), st.integers(-50, 50))
def test_advantages_sum_to_nothing_and_forget_what_all_rewards_share(groups, scale, shift):
    rewards = torch.tensor([[reward / 4 for reward, _ in group] for group in groups], dtype=torch.float64)
    is_candidate = torch.tensor([[there for _, there in group] for group in groups])
    found = group_advantages(rewards, is_candidate, scale)
    torch.testing.assert_close(found.sum(dim=1), torch.zeros(len(groups), dtype=torch.float64), atol=1e-9, rtol=0)
    assert (found[~is_candidate] == 0).all()
    torch.testing.assert_close(group_advantages(rewards + shift, is_candidate, scale), found, atol=1e-9, rtol=1e-9)


@settings(max_examples=40)
@given(GROUPS, st.sampled_from([0.5, 3.0, 100.0]))
def test_a_scaled_group_forgets_the_unit_of_the_reward(groups, unit):
    rewards = torch.tensor([[reward / 4 for reward, _ in group] for group in groups], dtype=torch.float64)
    is_candidate = torch.tensor([[there for _, there in group] for group in groups])
    found = group_advantages(rewards, is_candidate, "group", eps=1e-12)
    again = group_advantages(rewards * unit, is_candidate, "group", eps=1e-12)
    torch.testing.assert_close(again, found, atol=1e-9, rtol=1e-9)


def test_a_missing_candidate_is_as_if_it_were_not_in_the_group():
    rewards = torch.tensor([[0.5, torch.nan, 1.0, 0.0]])
    found = group_advantages(rewards, torch.tensor([[True, False, True, True]]), "group")
    alone = group_advantages(torch.tensor([[0.5, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool), "group")
    assert found[:, [0, 2, 3]].tolist() == alone.tolist()
    assert found[0, 1] == 0
