"""Losses by hand, and the negatives."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itemic.baselines.sequential.losses import binary_cross_entropy, draw_negatives, full_softmax


def test_the_full_softmax_by_hand():
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]]))
    assert float(full_softmax(logits, torch.tensor([1, 2]))) == pytest.approx(math.log(8 / 2 * 4 / 2) / 2)


def test_the_binary_cross_entropy_by_hand():
    positive, negative = torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, -math.log(4)])
    expected = -(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 2) + math.log(4 / 5)) / 4
    assert float(binary_cross_entropy(positive, negative)) == pytest.approx(expected)


def test_the_binary_cross_entropy_of_large_logits_is_finite():
    assert float(binary_cross_entropy(torch.tensor([-1e4]), torch.tensor([1e4]))) == 1e4


@given(num_items=st.integers(2, 6), seed=st.integers(0, 50))
def test_a_negative_is_another_item(num_items, seed):
    targets = torch.arange(num_items).repeat(5)
    negatives = draw_negatives(targets, num_items, np.random.default_rng(seed))
    assert ((negatives >= 0) & (negatives < num_items) & (negatives != targets)).all()


def test_every_other_item_is_as_likely():
    drawn = draw_negatives(torch.full((30_000,), 1), 4, np.random.default_rng(0))
    counts = torch.bincount(drawn, minlength=4).tolist()
    assert counts[1] == 0
    assert all(abs(count - 10_000) < 400 for count in (counts[0], counts[2], counts[3]))
