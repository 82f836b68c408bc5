import math

import pytest
import torch

from itemic.core.errors import ConfigError
from itemic.model.parts import AttentionWindow, HeadRule, attention_window, head_of, head_rule, is_tied


def test_head_rule_scales_then_caps():
    product = torch.tensor([[0.0, 2.0, -8.0]])
    assert torch.equal(HeadRule().apply(product), product)
    found = HeadRule(scale=0.5, softcap=3.0).apply(product)
    expected = torch.tensor([[0.0, 3 * math.tanh(1 / 3), 3 * math.tanh(-4 / 3)]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("qwen3", HeadRule()),
        ("gemma2", HeadRule(softcap=2.0)),
        ("cohere", HeadRule(scale=0.25)),
        ("granite", HeadRule(scale=0.25)),
    ],
)
def test_head_rule_is_read_from_the_config(make_network, name, rule):
    assert head_rule(make_network(name).config) == rule


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("qwen3", None),
        ("llama", None),
        ("gemma3", AttentionWindow(3, mixed=True)),
        ("mistral", AttentionWindow(3, mixed=False)),
    ],
)
def test_window_is_read_from_the_config(make_network, name, window):
    assert attention_window(make_network(name).config) == window


def test_window_counts_positions_not_slots():
    mask = torch.ones(1, 1, 2, 4, dtype=torch.bool)
    queries = torch.tensor([[3, 2]])
    keys = torch.tensor([[0, 1, 3, 2]])
    masks = AttentionWindow(2, mixed=True).masks(mask, queries, keys)
    assert torch.equal(masks["full_attention"], mask)
    expected = [[False, False, True, True], [False, True, True, True]]
    assert masks["sliding_attention"][0, 0].tolist() == expected


def test_tied_and_untied(make_network):
    assert is_tied(make_network("qwen3"))
    assert not is_tied(make_network("llama"))


def test_layers_that_do_not_attend_are_refused():
    from transformers import Lfm2Config

    config = Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"])
    with pytest.raises(ConfigError, match="lfm2 has layers of kind conv"):
        attention_window(config)


def test_network_without_a_head_is_refused(make_network):
    with pytest.raises(ConfigError, match="Qwen3Model has no language-model head"):
        head_of(make_network("qwen3").model)
