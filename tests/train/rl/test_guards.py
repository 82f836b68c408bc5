"""When a training is given up: every bound by hand, and what a checkpoint brings back."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.errors import ConfigError
from itemic.train.rl.guards import CollapseGuard, GuardConfig, guarded_score

OFF = {"min_entropy": 0.0, "min_distinct": 0.0, "max_kl": 0.0, "min_valid_score": 0.0, "max_steps_without_signal": 0}


def guard(**bounds: float) -> CollapseGuard:
    return CollapseGuard(GuardConfig(**OFF | {"window": 2} | bounds))  # type: ignore[arg-type]


def test_the_score_falls_as_far_as_the_list_narrows() -> None:
    assert guarded_score(0.5, 0.8, 0.8) == 0.5
    assert guarded_score(0.5, 0.9, 0.8) == 0.5
    assert guarded_score(0.5, 0.79, 0.8) == 0.5
    assert guarded_score(0.6, 0.2, 0.8) == pytest.approx(0.6 / 4 / 0.98)
    assert guarded_score(0.0, 0.0, 0.0) == 0.0
    assert guarded_score(0.3, 0.1, 0.0) == 0.3


@given(ndcg=st.floats(0, 1), hit_rate=st.floats(0, 1), first=st.floats(0, 1))
def test_the_score_lies_between_nothing_and_ndcg(ndcg: float, hit_rate: float, first: float) -> None:
    assert 0 <= guarded_score(ndcg, hit_rate, first) <= ndcg


def test_entropy_that_falls_below_its_share_of_the_first_window() -> None:
    watched = guard(min_entropy=0.25)
    for entropy in (1.5, 2.5, 0.6, 0.4, 0.5):  # windows of 2.0 and 0.5: a quarter, not below it
        watched.see_step({"entropy": entropy})
    assert watched.reason == ""
    watched.see_step({"entropy": 0.49})
    assert "entropy fell from 2.000 to 0.495 nats a code, below 0.25 of the start" in watched.reason
    assert "lower training.learning_rate or raise grpo.beta" in watched.reason


def test_answers_that_are_all_the_same() -> None:
    watched = guard(min_distinct=0.25)
    for distinct in (0.9, 0.7, 0.2, 0.2):  # windows of 0.8 and 0.2: a quarter, not below it
        watched.see_step({"distinct": distinct})
    assert watched.reason == ""
    watched.see_step({"distinct": 0.2})
    watched.see_step({"distinct": 0.1})
    assert "answers that are distinct fell from 80% to 15%, below 0.25 of the start: raise rollout" in watched.reason


def test_a_sampler_whose_draws_were_alike_from_the_start_has_not_collapsed() -> None:
    watched = guard(min_distinct=0.25)
    for _ in range(6):
        watched.see_step({"distinct": 0.125})
    assert watched.reason == ""


HACKED = [(1.0, 0.5), (1.2, 0.5), (1.5, 0.46), (1.5, 0.44)]
"""Windows of one step of the collaborative reward and of the rule: 12% of the second are lost in the end."""


def hackable() -> CollapseGuard:
    return CollapseGuard(GuardConfig(**OFF | {"window": 1}), may_be_hacked="collaborative")  # type: ignore[arg-type]


def show(watched: CollapseGuard, figures: list[tuple[float, float]]) -> None:
    for collaborative, right in figures:
        watched.see_step({"reward/collaborative": collaborative, "reward/rule": right})


def test_a_reward_that_rises_while_answers_get_worse_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    watched = hackable()
    show(watched, HACKED[:3])
    assert caplog.text == "", "so small a fall is chance"
    show(watched, [*HACKED[3:], *HACKED])
    assert caplog.text.count("reward hacking") == 1
    assert "reward/collaborative rose from 1.0000 to 1.5000 while reward/rule fell from 0.5000 to 0.4400" in caplog.text
    assert watched.reason == ""


def test_a_validation_score_that_falls_is_named_too(caplog: pytest.LogCaptureFixture) -> None:
    watched = hackable()
    watched.see_score(0.2)
    watched.see_score(0.1)
    show(watched, [(-1.0, 0.5), (-0.5, 0.5)])
    assert "from -1.0000 to -0.5000 while validation score fell from 0.2000 to 0.1000" in caplog.text


@pytest.mark.parametrize("figures", [[(1.0, 0.5), (0.9, 0.1)], [(1.0, 0.5), (2.0, 0.6)], []])
def test_what_falls_together_or_rises_together_is_not_warned_of(
    caplog: pytest.LogCaptureFixture, figures: list[tuple[float, float]]
) -> None:
    show(hackable(), figures)
    show(guard(), HACKED)
    assert caplog.text == ""


@pytest.mark.parametrize("cut", range(len(HACKED) + 1))
def test_the_warning_is_given_once_over_a_resume(caplog: pytest.LogCaptureFixture, cut: int) -> None:
    before, after = hackable(), hackable()
    before.see_score(0.2)
    show(before, HACKED[:cut])
    after.restore(before.state())
    show(after, HACKED[cut:])
    show(after, HACKED)
    assert caplog.text.count("reward hacking") == 1


def test_steps_that_go_on_with_a_roll_out_have_no_figures_of_answers() -> None:
    watched = CollapseGuard(GuardConfig(**OFF | {"window": 4, "min_distinct": 0.25}))  # type: ignore[arg-type]
    for distinct in (1.0, None, None, None) * 2:
        watched.see_step({"entropy": 1.0} if distinct is None else {"entropy": 1.0, "distinct": distinct})
    assert watched.reason == "", "a mean over the steps that have the figure"


def test_a_policy_too_far_from_its_reference() -> None:
    watched = guard(max_kl=2.0)
    for kl in (1.0, 3.0, 2.0, 2.5):
        assert watched.reason == ""
        watched.see_step({"kl": kl})
    assert "2.25 nats a code away from the reference, above 2: lower training.learning_rate" in watched.reason


def test_groups_without_a_signal() -> None:
    watched = guard(max_steps_without_signal=3)
    for share in (1.0, 1.0, 0.75, 1.0, 1.0):
        watched.see_step({"zero_variance": share})
    assert watched.reason == ""
    watched.see_step({"zero_variance": 1.0})
    assert "all rewards of each group were equal for 3 steps" in watched.reason
    assert "use other rewards, a wider sampler, or rollout.add_ground_truth" in watched.reason


def test_a_silent_roll_out_is_silent_in_each_of_its_steps() -> None:
    watched = guard(max_steps_without_signal=4)
    for figures in ({"zero_variance": 1.0}, {}, {"zero_variance": 1.0}):
        watched.see_step(figures)
    assert watched.reason == ""
    watched.see_step({})
    assert "for 4 steps" in watched.reason


def test_a_validation_score_that_fell() -> None:
    watched = guard(min_valid_score=0.5)
    for score in (0.4, 0.2, 0.6, 0.2):
        watched.see_score(score)
    assert watched.reason == ""
    watched.see_score(0.19)
    assert "validation score fell from 0.4000 to 0.1900, below 0.5 of the start" in watched.reason


def test_no_bound_no_reason() -> None:
    watched = guard()
    for entropy in (1.0, 0.0, 0.0, 0.0):
        watched.see_step({"entropy": entropy, "distinct": 0.0, "kl": 1e9, "zero_variance": 1.0})
        watched.see_score(entropy)
    assert watched.reason == ""


def test_what_collapsed_first_is_the_reason() -> None:
    watched = guard(max_kl=1.0, min_valid_score=0.5)
    watched.see_step({"kl": 5.0})
    watched.see_step({"kl": 5.0})
    first = watched.reason
    watched.see_score(1.0)
    watched.see_score(0.0)
    assert "away from the reference" in first
    assert watched.reason == first


STEPS: list[Callable[[CollapseGuard], None]] = [
    lambda watched: watched.see_score(0.5),
    lambda watched: watched.see_step({"entropy": 2.0, "kl": 0.5, "zero_variance": 1.0}),
    lambda watched: watched.see_step({"entropy": 1.0, "kl": 1.5}),
    lambda watched: watched.see_step({"entropy": 1.4, "kl": 1.5}),
    lambda watched: watched.see_score(0.4),
    lambda watched: watched.see_step({"entropy": 1.3, "kl": 1.5}),
]


@pytest.mark.parametrize("cut", range(len(STEPS) + 1))
@pytest.mark.parametrize(
    "bounds", [{"min_entropy": 0.95}, {"max_kl": 1.4}, {"max_steps_without_signal": 4}, {"min_valid_score": 0.9}]
)
def test_a_guard_that_is_restored_goes_on_where_it_was(bounds: dict[str, float], cut: int) -> None:
    whole, before, after = guard(**bounds), guard(**bounds), guard(**bounds)
    for step in STEPS:
        step(whole)
    assert whole.reason
    for step in STEPS[:cut]:
        step(before)
    after.restore(before.state() | {"other": torch.tensor(1.0)})
    assert after.reason == before.reason
    for step in STEPS[cut:]:
        step(after)
    assert after.reason == whole.reason


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_entropy", 1.0),
        ("min_entropy", -0.1),
        ("min_distinct", 1.5),
        ("min_valid_score", float("nan")),
        ("max_kl", -1.0),
        ("max_kl", float("nan")),
        ("max_steps_without_signal", -1),
        ("window", 0),
    ],
)
def test_bounds_that_mean_nothing_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        GuardConfig(**{field: value})  # type: ignore[arg-type]
