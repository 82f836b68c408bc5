"""Losses by hand."""

import math

import pytest
import torch

from itemic.train.losses import label_nll, smoothed_nll

LOGITS = torch.tensor([[0.0, math.log(2), math.log(3), math.log(4)], [0.0, 0.0, 0.0, math.log(5)]])
LEVELS = [torch.tensor([1, 2])]


def test_a_smoothed_code_shares_its_target_with_its_own_level_alone() -> None:
    # Row 0 has probabilities 1/10, 2/10, 3/10, 4/10; tokens 1 and 2 are the level.
    loss = smoothed_nll(LOGITS, torch.tensor([0]), torch.tensor([2]), LEVELS, 0.1)
    expected = -(0.95 * math.log(3 / 10) + 0.05 * math.log(2 / 10))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_label_that_is_no_code_is_not_smoothed() -> None:
    loss = smoothed_nll(LOGITS, torch.tensor([1, 0]), torch.tensor([3, 0]), LEVELS, 0.3)
    assert loss.tolist() == pytest.approx([-math.log(5 / 8), -math.log(1 / 10)], rel=1e-6)


def test_without_smoothing_it_is_the_plain_loss_to_the_bit() -> None:
    labels = torch.tensor([0, 1, 1]), torch.tensor([1, 2, 3])
    assert torch.equal(smoothed_nll(LOGITS, *labels, LEVELS, 0.0), label_nll(LOGITS, *labels))


def test_it_is_the_cross_entropy_of_a_whole_vocabulary_of_one_level() -> None:
    level = [torch.arange(4)]
    loss = smoothed_nll(LOGITS, torch.tensor([0, 1]), torch.tensor([3, 0]), level, 0.2)
    expected = torch.nn.functional.cross_entropy(LOGITS, torch.tensor([3, 0]), reduction="none", label_smoothing=0.2)
    assert loss.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
