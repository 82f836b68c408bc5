import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.train.rl.preferences import dpo_loss, sdpo_loss

TRL = json.loads((Path(__file__).parent / "data" / "trl.json").read_text(encoding="utf-8"))["dpo"]
"""Numbers of TRL 1.16.0; the file says how they were made."""
LOSSES = [dpo_loss, sdpo_loss]


def trl_tensor(name):
    rows = TRL[name]
    filled = [
        [-math.inf if value is None else value for value in row] if isinstance(row, list) else row for row in rows
    ]
    return torch.tensor(filled, dtype=torch.float64)


@pytest.mark.parametrize("case", TRL["cases"], ids=lambda case: f"beta-{case['beta']}")
def test_dpo_is_that_of_trl(case):
    chosen, rejected = trl_tensor("chosen").requires_grad_(), trl_tensor("rejected").requires_grad_()
    references = trl_tensor("ref_chosen"), trl_tensor("ref_rejected")
    losses = dpo_loss(chosen, rejected, *references, rejected.detach().isfinite(), case["beta"])
    losses.sum().backward()
    for found, name in ((losses, "loss"), (chosen.grad, "gradient_chosen"), (rejected.grad, "gradient_rejected")):
        torch.testing.assert_close(found, torch.tensor(case[name], dtype=torch.float64), atol=1e-6, rtol=1e-6)


def rows(*values):
    return torch.tensor([values], dtype=torch.float64)


def test_sdpo_by_hand():
    # β = 2. Log-ratios to the reference: chosen ln 2 / 2, rejected ln 6 / 2 and 0, so the rejected ones lead by the
    # factors 6/2 and 1/2: log(1 + 3 + 1/2) = log 9/2.
    chosen, rejected = rows(math.log(2) / 2 - 1).flatten(), rows(math.log(6) / 2 - 3, -2.0)
    ref_chosen, ref_rejected = rows(-1.0).flatten(), rows(-3.0, -2.0)
    leaves = [chosen.requires_grad_(), rejected.requires_grad_()]
    loss = sdpo_loss(*leaves, ref_chosen, ref_rejected, torch.tensor([[True, True]]), 2.0)
    torch.testing.assert_close(loss, rows(math.log(9 / 2)).flatten())
    loss.sum().backward()
    torch.testing.assert_close(rejected.grad, 2 * rows(3 / (9 / 2), (1 / 2) / (9 / 2)))
    torch.testing.assert_close(chosen.grad, -2 * rows((7 / 2) / (9 / 2)).flatten())


def test_dpo_by_hand():
    # The same leads of 3 and 1/2: mean of log(1 + 3) and log(1 + 1/2).
    chosen, rejected = rows(math.log(2) / 2 - 1).flatten(), rows(math.log(6) / 2 - 3, -2.0)
    loss = dpo_loss(chosen, rejected, rows(-1.0).flatten(), rows(-3.0, -2.0), torch.tensor([[True, True]]), 2.0)
    torch.testing.assert_close(loss, rows(math.log(6) / 2).flatten())


@pytest.mark.parametrize("num_rejected", [1, 3, 7])
def test_a_policy_that_is_its_reference_stands_at_the_known_start(num_rejected):
    chosen, rejected = rows(-2.0).flatten(), torch.full((1, num_rejected), -5.0, dtype=torch.float64)
    is_rejected = torch.ones(1, num_rejected, dtype=torch.bool)
    same = (chosen, rejected, chosen, rejected, is_rejected, 0.1)
    assert dpo_loss(*same).item() == pytest.approx(math.log(2))
    assert sdpo_loss(*same).item() == pytest.approx(math.log(1 + num_rejected))


NUMBERS = st.lists(st.floats(-30, 0), min_size=4, max_size=4)


@settings(max_examples=40)
@given(NUMBERS, st.sampled_from([0.1, 1.0, 5.0]))
def test_one_rejected_answer_makes_sdpo_dpo(numbers, beta):
    chosen, ref_chosen = (torch.tensor([value], dtype=torch.float64) for value in numbers[:2])
    rejected, ref_rejected = (torch.tensor([[value, -math.inf]], dtype=torch.float64) for value in numbers[2:])
    arguments = (chosen, rejected, ref_chosen, ref_rejected, torch.tensor([[True, False]]), beta)
    torch.testing.assert_close(sdpo_loss(*arguments), dpo_loss(*arguments))


@settings(max_examples=40)
@given(NUMBERS, st.sampled_from([0.1, 1.0]))
def test_sdpo_lies_between_the_worst_pair_and_the_sum_of_all_pairs(numbers, beta):
    rejected = torch.tensor([numbers], dtype=torch.float64)
    zero, is_rejected = torch.zeros(1, dtype=torch.float64), torch.ones(1, 4, dtype=torch.bool)
    together = sdpo_loss(zero - 3, rejected, zero, torch.zeros_like(rejected), is_rejected, beta).item()
    pairs = [
        dpo_loss(
            zero - 3, rejected[:, [column]], zero, torch.zeros(1, 1, dtype=torch.float64), is_rejected[:, :1], beta
        )
        for column in range(4)
    ]
    assert max(pairs).item() - 1e-9 <= together <= sum(pairs).item() + 1e-9


@pytest.mark.parametrize("empty", [-math.inf, math.nan])
@pytest.mark.parametrize("loss_of", LOSSES)
def test_what_is_masked_is_never_read(loss_of, empty):
    chosen = torch.tensor([-1.0, empty, -1.0], requires_grad=True)
    rejected = torch.tensor([[-2.0, empty], [empty, empty], [empty, -3.0]], requires_grad=True)
    is_rejected = torch.tensor([[True, False], [False, False], [False, True]])
    losses = loss_of(chosen, rejected, chosen.detach() - 1, rejected.detach() + 1, is_rejected, 0.5)
    losses.sum().backward()
    assert losses[1] == 0
    assert losses.isfinite().all()
    assert chosen.grad[1] == 0
    assert (rejected.grad[~is_rejected] == 0).all()
    assert (chosen.grad[[0, 2]] < 0).all()
    assert (rejected.grad[is_rejected] > 0).all()


@pytest.mark.parametrize("loss_of", LOSSES)
def test_far_leads_neither_overflow_nor_vanish(loss_of):
    chosen, rejected = torch.tensor([-1e4, 0.0], requires_grad=True), torch.tensor([[0.0, 0.0], [-1e4, -1e4]])
    zeros = torch.zeros(2), torch.zeros(2, 2)
    losses = loss_of(chosen, rejected, *zeros, torch.ones(2, 2, dtype=torch.bool), 1.0)
    losses.sum().backward()
    assert losses[0].item() == pytest.approx(1e4, rel=1e-3)
    assert losses[1].item() == 0
    assert chosen.grad.tolist() == pytest.approx([-1.0, 0.0])
