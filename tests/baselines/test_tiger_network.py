"""TIGER's network and lessons: what is kept against what is computed anew, causality, padding, batches, the loss."""

import math

import numpy as np
import pytest
import torch

from itemic.baselines.tiger.network import TigerNetwork, TigerShape
from itemic.baselines.tiger.training import Examples, training_loss

SHAPE = TigerShape(
    codebook_sizes=(4, 3, 5),
    max_history=6,
    hidden_size=12,
    num_encoder_layers=2,
    num_decoder_layers=2,
    num_heads=2,
    head_size=8,
    feed_forward_size=20,
)


def codes_of(*shape: int) -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(np.stack([rng.integers(0, size, shape) for size in SHAPE.codebook_sizes], axis=-1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = TigerNetwork(SHAPE, dropout=0.5).eval()
    torch.nn.init.normal_(network.encoder_bias)
    torch.nn.init.normal_(network.decoder_bias)
    return network


def test_level_by_level_gives_what_the_whole_target_gives(network):
    """Three beams a history, the third one's second code continuing the first one's first."""
    codes, is_item, beams = codes_of(2, 4), torch.ones(2, 4, dtype=torch.bool), codes_of(2, 3)
    parent = torch.tensor([[0, 1, 0], [2, 1, 2]])
    history = network.read(codes, is_item)
    first, prefixes = network.begin(history)
    second, prefixes = network.step(history, prefixes.continued_by(torch.zeros(2, 3, dtype=int)), beams[..., 0], 0)
    third, _ = network.step(history, prefixes.continued_by(parent), beams[..., 1], 1)
    for beam in range(3):
        expected = network(codes, is_item, beams[:, beam])
        torch.testing.assert_close(first[:, 0], expected[0])
        torch.testing.assert_close(second[:, beam], expected[1])
        target = beams[:, beam].clone()
        target[:, 0] = beams[torch.arange(2), parent[:, beam], 0]
        torch.testing.assert_close(third[:, beam], network(codes, is_item, target)[2])


def test_a_history_read_once_serves_every_beam(network):
    codes, is_item, beams = codes_of(1, 5), torch.ones(1, 5, dtype=torch.bool), codes_of(7)
    history = network.read(codes, is_item)
    _, prefixes = network.begin(history)
    once, _ = network.step(history, prefixes.continued_by(torch.zeros(1, 7, dtype=int)), beams[None, :, 0], 0)
    repeated = network(codes.expand(7, -1, -1), is_item.expand(7, -1), beams)[1]
    torch.testing.assert_close(once[0], repeated)


def test_padding_on_the_left_changes_nothing(network):
    codes, target = codes_of(1, 3), codes_of(1)
    plain = network(codes, torch.ones(1, 3, dtype=torch.bool), target)
    padded = torch.cat([codes_of(1, 2), codes], dim=1)
    for one, other in zip(plain, network(padded, torch.tensor([[False] * 2 + [True] * 3]), target), strict=True):
        torch.testing.assert_close(one, other)


def test_a_code_is_predicted_from_earlier_codes_only(network):
    codes, is_item, target = codes_of(1, 3), torch.ones(1, 3, dtype=torch.bool), torch.tensor([[1, 1, 1]])
    changed = [network(codes, is_item, torch.tensor(other)) for other in ([[1, 1, 4]], [[1, 2, 1]], [[2, 1, 1]])]
    expected = network(codes, is_item, target)
    for level, other in zip((2, 1, 0), changed, strict=True):
        for depth in range(3):
            assert torch.allclose(other[depth], expected[depth], atol=1e-5) == (depth <= level)


def test_the_order_of_the_past_and_the_level_of_a_code_matter(network):
    is_item, target = torch.ones(1, 2, dtype=torch.bool), codes_of(1)
    one, other, swapped = ([[0, 1, 2], [3, 2, 1]], [[3, 2, 1], [0, 1, 2]], [[1, 0, 2], [3, 2, 1]])
    first, second, third = (network(torch.tensor([codes]), is_item, target)[0] for codes in (one, other, swapped))
    assert not torch.allclose(first, second, atol=1e-3)
    assert not torch.allclose(first, third, atol=1e-3)


def test_a_network_that_knows_nothing_loses_the_mean_log_of_the_codebook_sizes(network):
    torch.nn.init.zeros_(network.tokens.weight)
    loss = training_loss(network, codes_of(5, 2), torch.ones(5, 2, dtype=torch.bool), codes_of(5), 0.0)
    assert loss.item() == pytest.approx(math.log(4 * 3 * 5) / 3)


def test_batches_hold_every_example_once_and_like_lengths_together():
    histories = [list(range(length)) for length in (1, 6, 2, 1, 5, 9, 2)]
    examples = Examples.from_histories(histories, max_history=6)
    batches = examples.batches(2, np.random.default_rng(0))
    assert sorted(row for rows in batches for row in rows) == list(range(7))
    assert sorted(sorted(examples.length[rows]) for rows in batches) == [[1, 1], [2, 2], [5, 6], [6]]


def test_examples_are_the_train_split_with_the_newest_items(make_dataset):
    dataset = make_dataset([[0, 1, 2, 3, 0, 1], [3, 2, 1, 0]], 4)
    examples = Examples.from_dataset(dataset, max_history=2)
    codes = torch.arange(4)[:, None]
    read, is_item = examples.load(np.arange(4), codes)
    assert read[..., 0][is_item].tolist() == [0, 0, 1, 1, 2, 3]
    assert is_item.tolist() == [[False, True], [True, True], [True, True], [False, True]]
    assert examples.target.tolist() == [1, 2, 3, 2]


def test_histories_without_items_have_no_width():
    read, is_item = Examples.from_histories([[], []], max_history=3).load(np.arange(2), torch.arange(4)[:, None])
    assert read.shape == (2, 0, 1)
    assert is_item.shape == (2, 0)
