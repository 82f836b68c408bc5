import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.train.rl.objectives import (
    k3_kl,
    mean_over_sequences,
    policy_terms,
    sum_over_constant,
    sum_over_tokens,
)

TRL = json.loads((Path(__file__).parent / "data" / "trl.json").read_text(encoding="utf-8"))
"""Numbers of TRL 1.16.0; the file says how they were made."""
RATIOS = ["token", "sequence"]


def trl_tensor(name):
    def filled(rows):
        return [filled(row) if isinstance(row, list) else -math.inf if row is None else row for row in rows]

    return torch.tensor(filled(TRL["tensors"][name]), dtype=torch.float64)


def trl_mask():
    lengths = torch.tensor(TRL["tensors"]["lengths"])
    return torch.arange(trl_tensor("logprobs").shape[-1]) < lengths[..., None]


def normalise(case, values, is_token, weight):
    if case["loss_type"] == "grpo":
        return mean_over_sequences(values, is_token, weight).mean()
    if case["loss_type"] == "dr_grpo":
        return sum_over_constant(values, is_token, weight, case["max_length"]).mean()
    return sum_over_tokens(values, is_token, weight).sum() / is_token.sum()


def trl_name(case):
    flags = [name for name in ("on_policy", "weighted") if case[name]]
    return "-".join([case["loss_type"], case["ratio"], str(case["clip_high"]), str(case["beta"]), *flags])


@pytest.mark.parametrize("case", TRL["losses"], ids=trl_name)
def test_losses_and_gradients_are_those_of_trl(case):
    logprobs, is_token = trl_tensor("logprobs").requires_grad_(), trl_mask()
    old_logprobs = logprobs.detach() if case["on_policy"] else trl_tensor("old_logprobs")
    weight = trl_tensor("weight") if case["weighted"] else is_token.any(dim=-1).double()
    clips = {"clip_low": case["clip_low"], "clip_high": case["clip_high"], "ratio": case["ratio"]}
    terms = policy_terms(logprobs, old_logprobs, trl_tensor("advantages"), is_token, **clips)
    kl = k3_kl(logprobs, trl_tensor("ref_logprobs"), is_token)
    loss = normalise(case, terms.loss + case["beta"] * kl, is_token, weight)
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-6)
    gradient = torch.tensor(case["gradient"], dtype=torch.float64)
    torch.testing.assert_close(logprobs.grad, gradient, atol=1e-6, rtol=1e-6)
    is_clipped = terms.is_clipped[is_token] if case["ratio"] == "token" else terms.is_clipped[..., 0][is_token[..., 0]]
    assert is_clipped.double().mean().item() == pytest.approx(case["clip_fraction"], abs=1e-6)
    if case["kl"] is not None:
        assert kl[is_token].mean().item() == pytest.approx(case["kl"], abs=1e-6)


def terms_of(log_ratio, advantage, ratio="token", clip_low=0.25, clip_high=0.5):
    """Returns the terms of one answer, and their gradient by the log-probabilities."""
    logprobs = torch.tensor([[log_ratio]], dtype=torch.float64, requires_grad=True)
    is_token = torch.ones(1, 1, len(log_ratio), dtype=torch.bool)
    advantages = torch.tensor([[advantage]], dtype=torch.float64)
    old = torch.zeros_like(logprobs)
    terms = policy_terms(logprobs, old, advantages, is_token, clip_low=clip_low, clip_high=clip_high, ratio=ratio)
    (gradient,) = torch.autograd.grad(terms.loss.sum(), logprobs)
    return terms.loss[0, 0].tolist(), terms.is_clipped[0, 0].tolist(), gradient[0, 0].tolist()


LOG2 = math.log(2)


@pytest.mark.parametrize(
    ("weight", "advantage", "loss", "is_clipped"),
    [
        (2, 1, -3 / 2, True),  # liked and already likelier than allowed: held at the upper bound
        (2, -1, 2, False),  # disliked and likelier: pushed back without a bound
        (1 / 2, 1, -1 / 2, False),  # liked and less likely: pulled up without a bound
        (1 / 2, -1, 3 / 4, True),  # disliked and already less likely than allowed: held at the lower bound
        (5 / 4, 2, -5 / 2, False),
        (7 / 8, -2, 7 / 4, False),
    ],
)
def test_the_bound_holds_only_in_the_direction_of_the_advantage(weight, advantage, loss, is_clipped):
    losses, clipped, gradient = terms_of([math.log(weight)], advantage)
    assert losses == pytest.approx([loss])
    assert clipped == [is_clipped]
    assert gradient == pytest.approx([0.0 if is_clipped else -weight * advantage])


def test_the_ratio_of_a_sequence_is_the_geometric_mean_of_its_tokens():
    losses, clipped, gradient = terms_of([LOG2, -LOG2, 0.0], 3.0, "sequence")
    assert losses == pytest.approx([-3, -3, -3])
    assert clipped == [False] * 3
    assert gradient == pytest.approx([-3, -3, -3])  # 3 terms times 1/3 of the ratio's logarithm each
    losses, clipped, gradient = terms_of([2 * LOG2, 0.0], 1.0, "sequence")
    assert losses == pytest.approx([-3 / 2, -3 / 2])
    assert clipped == [True, True]
    assert gradient == [0.0, 0.0]


@pytest.mark.parametrize("ratio", RATIOS)
def test_on_its_own_answers_the_gradient_is_that_of_reinforce(ratio):
    losses, clipped, gradient = terms_of([0.0, 0.0], 0.75, ratio)
    assert losses == [-0.75, -0.75]
    assert clipped == [False, False]
    assert gradient == pytest.approx([-0.75, -0.75])


@pytest.mark.parametrize("advantage", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("log_ratio", [1e4, -1e4])
@pytest.mark.parametrize("ratio", RATIOS)
def test_ratios_that_overflow_make_no_nan_where_the_bound_holds(ratio, log_ratio, advantage):
    losses, _, gradient = terms_of([log_ratio, log_ratio], advantage, ratio)
    assert not any(math.isnan(value) for value in losses)
    if advantage * log_ratio >= 0:
        assert gradient == [0.0, 0.0]


def test_no_upper_bound_is_an_infinite_one():
    losses, clipped, _ = terms_of([math.log(50)], 1.0, clip_high=math.inf)
    assert losses == pytest.approx([-50])
    assert clipped == [False]


@pytest.mark.parametrize("empty", [-math.inf, math.nan])
@pytest.mark.parametrize("ratio", RATIOS)
def test_what_is_masked_is_never_read(ratio, empty):
    is_token = torch.tensor([[[True, True], [True, False], [False, False]]])
    logprobs = torch.tensor([[[-1.0, -2.0], [-0.5, empty], [empty, empty]]], requires_grad=True)
    old = logprobs.detach() - torch.tensor(0.1)
    advantages = torch.tensor([[1.0, -0.5, empty]])
    weight = torch.tensor([[1.5, 0.5, 0.0]])
    terms = policy_terms(logprobs, old, advantages, is_token, clip_low=0.2, clip_high=0.2, ratio=ratio)
    values = terms.loss + 0.1 * k3_kl(logprobs, old, is_token)
    assert (values[~is_token] == 0).all()
    assert not terms.is_clipped[~is_token].any()
    outside = torch.where(is_token, values, torch.full_like(values, empty))
    for found in (
        mean_over_sequences(outside, is_token, weight),
        sum_over_tokens(outside, is_token, weight),
        sum_over_constant(outside, is_token, weight, 2),
    ):
        (gradient,) = torch.autograd.grad(found.sum(), logprobs, retain_graph=True)
        assert found.isfinite().all()
        assert gradient.isfinite().all()
        assert (gradient[~is_token] == 0).all()
        assert (gradient[is_token] != 0).all()


def test_k3_is_an_unbiased_estimate_of_the_divergence():
    policy = torch.tensor([1 / 2, 1 / 4, 1 / 4], dtype=torch.float64)
    reference = torch.tensor([1 / 4, 1 / 4, 1 / 2], dtype=torch.float64)
    shape = (1, 3, 1)
    k3 = k3_kl(policy.log().view(shape), reference.log().view(shape), torch.ones(shape, dtype=torch.bool))
    assert (policy * k3.flatten()).sum().item() == pytest.approx(LOG2 / 2 - LOG2 / 4)


@settings(max_examples=40)
@given(st.floats(-8, 8), st.floats(-8, 8))
def test_k3_is_never_negative_and_nothing_where_both_agree(logprob, ref_logprob):
    everywhere = torch.ones(1, 1, 1, dtype=torch.bool)
    pair = [torch.full((1, 1, 1), value, dtype=torch.float64) for value in (logprob, ref_logprob)]
    assert k3_kl(*pair, everywhere).item() >= 0
    assert k3_kl(pair[0], pair[0], everywhere).item() == 0


def test_normalisations_by_hand():
    values = torch.tensor([[[1.0, 2.0, 3.0], [5.0, 0.0, 0.0]], [[4.0, 6.0, 0.0], [0.0, 0.0, 0.0]]])
    is_token = torch.tensor([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]], dtype=torch.bool)
    ones = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert mean_over_sequences(values, is_token, ones).tolist() == [7 / 2, 5.0]
    assert sum_over_tokens(values, is_token, ones).tolist() == [11.0, 10.0]
    assert sum_over_constant(values, is_token, ones, 4).tolist() == [11 / 8, 10 / 4]
    weight = torch.tensor([[0.5, 1.5], [1.0, 0.0]])
    assert mean_over_sequences(values, is_token, weight).tolist() == [(2 / 2 + 15 / 2) / 2, 5.0]
    assert sum_over_tokens(values, is_token, weight).tolist() == [6 / 2 + 15 / 2, 10.0]
    assert sum_over_constant(values, is_token, weight, 4).tolist() == [(6 / 2 + 15 / 2) / 8, 10 / 4]


def test_questions_without_candidates_cost_nothing():
    values, is_token = torch.full((1, 2, 3), math.nan), torch.zeros(1, 2, 3, dtype=torch.bool)
    weight = torch.zeros(1, 2)
    assert mean_over_sequences(values, is_token, weight).tolist() == [0.0]
    assert sum_over_tokens(values, is_token, weight).tolist() == [0.0]
    assert sum_over_constant(values, is_token, weight, 3).tolist() == [0.0]


@settings(max_examples=40)
@given(st.integers(1, 4))
def test_answers_of_one_length_are_normalised_alike(length):
    values = torch.arange(2 * 3 * length, dtype=torch.float64).view(2, 3, length)
    is_token, weight = torch.ones(2, 3, length, dtype=torch.bool), torch.ones(2, 3, dtype=torch.float64)
    expected = values.mean(dim=(1, 2))
    torch.testing.assert_close(mean_over_sequences(values, is_token, weight), expected)
    torch.testing.assert_close(sum_over_tokens(values, is_token, weight) / (3 * length), expected)
    torch.testing.assert_close(sum_over_constant(values, is_token, weight, length), expected)


@settings(max_examples=40)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(-2, 2), st.sampled_from(RATIOS))
def test_clipping_never_promises_more_than_the_ratio_does(log_ratio, advantage, ratio):
    losses, _, gradient = terms_of(log_ratio, advantage, ratio)
    free, _, _ = terms_of(log_ratio, advantage, ratio, clip_low=1.0, clip_high=math.inf)
    assert all(bounded >= unbounded for bounded, unbounded in zip(losses, free, strict=True))
    assert all(value * advantage <= 0 for value in gradient)
