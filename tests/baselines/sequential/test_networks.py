"""Every network: what a state sees, and the parts that are particular to one."""

import math

import pytest
import torch

from itemic.baselines.sequential import Caser, CaserConfig, HSTUConfig, SASRecBCEConfig, SASRecConfig
from itemic.baselines.sequential.hstu import pointwise_attention
from itemic.core.errors import ConfigError


@pytest.fixture
def network(model_type, settings):
    """Untrained, with weights large enough for every input to be felt."""
    torch.manual_seed(0)
    network = model_type.make_network(**model_type.shape_of(settings(dropout=0.5), 12)).eval()
    for name, weights in network.named_parameters():
        if "items" in name or "distance_bias" in name:
            torch.nn.init.normal_(weights)
    return network


def at(rows, length):
    """One scored position a row."""
    return torch.arange(length) == torch.tensor(rows)[:, None]


def test_a_state_sees_its_past_and_nothing_later(network):
    items = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 8, 0], [0, 2, 3, 4, 5]])
    third = network.states(items, at([2, 2, 2], 5))
    torch.testing.assert_close(third[0], third[1])
    fifth = network.states(items, at([4, 4, 4], 5))
    assert not torch.allclose(fifth[0], fifth[2], atol=1e-4)


def test_padding_on_the_right_changes_no_state(network):
    short = network.states(torch.tensor([[1, 2, 3]]), at([2], 3))
    padded = network.states(torch.tensor([[1, 2, 3, 0, 0], [5, 6, 7, 8, 1]]), at([2, 4], 5))
    torch.testing.assert_close(padded[:1], short)


def test_the_order_of_the_past_matters(network):
    states = network.states(torch.tensor([[1, 2, 3], [2, 1, 3]]), at([2, 2], 3))
    assert not torch.allclose(states[0], states[1])


def test_some_logits_are_those_among_all(network):
    state = network.states(torch.tensor([[1, 2, 3], [4, 5, 6]]), at([2, 1], 3))
    items = torch.tensor([[3, 0], [11, 11]])
    torch.testing.assert_close(network.item_logits(state, items), network.logits(state).gather(1, items))


def test_caser_s_image_is_what_the_filters_say_by_hand():
    network = Caser.make_network(
        num_items=3, max_length=3, hidden_size=1, num_filters=1, heights=[2], num_vertical=1, dropout=0.0
    ).eval()
    with torch.no_grad():
        network.items.weight.copy_(torch.tensor([[1.0], [2.0], [9.0]]))
        network.horizontal[0].weight.copy_(torch.tensor([1.0, 10.0]).view(1, 1, 2, 1))
        network.vertical.weight.copy_(torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1))
        for filters in (network.horizontal[0], network.vertical):
            filters.bias.zero_()
    state = network.states(torch.tensor([[0, 1, 2]]), at([1], 3))  # the image is 1, 2, 0
    assert state.tolist() == [[max(1 + 20, 2 + 0), 1 + 20 + 0]]


def test_hstu_s_attention_is_the_naive_sum():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 4, 3)
    bias = torch.randn(2, 4, 4)
    expected = torch.zeros(2, 2, 4, 3)
    for row in range(2):
        for head in range(2):
            for here in range(4):
                for before in range(here + 1):
                    x = float(query[row, head, here] @ key[row, head, before] + bias[head, here, before])
                    expected[row, head, here] += x / (1 + math.exp(-x)) * value[row, head, before] / 7
    torch.testing.assert_close(pointwise_attention(query, key, value, bias, 7), expected)


@pytest.mark.parametrize("config", [SASRecConfig, SASRecBCEConfig, HSTUConfig])
def test_heads_share_the_width(config):
    with pytest.raises(ConfigError, match="hidden_size 10 must be a multiple of num_heads 4"):
        config(hidden_size=10, num_heads=4)


@pytest.mark.parametrize("heights", [(), (0,), (2, 11)])
def test_a_filter_fits_into_the_image(heights):
    with pytest.raises(ConfigError, match="expected numbers from 1 to max_length 10"):
        CaserConfig(heights=heights)
