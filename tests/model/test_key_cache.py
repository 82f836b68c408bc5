"""The cache that appends in place against transformers' own, which makes every array anew."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicLayer

from itemic.model.key_cache import GrowingLayer


def states(num_rows: int, num_tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns keys and values as a network gives them: heads and tokens swapped in memory."""
    drawn = torch.randn(2, num_rows, num_tokens, 2, 3, generator=torch.Generator().manual_seed(seed))
    keys, values = drawn.transpose(2, 3)
    return keys, values


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), num_rows=st.integers(1, 3))
def test_tokens_come_in_pieces_and_what_was_given_out_stays(sizes: list[int], num_rows: int) -> None:
    growing, plain = GrowingLayer(), DynamicLayer()
    given_out = []
    for place, size in enumerate(sizes):
        new = states(num_rows, size, place)
        given_out.append((growing.update(*new), plain.update(*new)))
    for found, expected in given_out:
        assert all(map(torch.equal, found, expected))
    assert growing.get_seq_length() == sum(sizes)
    assert growing.get_mask_sizes(2) == plain.get_mask_sizes(2)


def test_arrays_are_made_anew_seldom() -> None:
    layer = GrowingLayer()
    places = {layer.update(*states(2, 1, step))[0].data_ptr() for step in range(200)}
    assert len(places) <= 9


@pytest.mark.parametrize("change", ["select", "reorder", "repeat", "crop", "reset"])
def test_what_transformers_does_to_a_cache_is_followed(change) -> None:
    growing, plain = GrowingLayer(), DynamicLayer()
    for layer in (growing, plain):
        for place, size in enumerate((4, 3, 1)):
            layer.update(*states(3, size, place))
        if change == "select":
            layer.batch_select_indices(torch.tensor([2, 0]))
        elif change == "reorder":
            layer.reorder_cache(torch.tensor([1, 1, 0]))
        elif change == "repeat":
            layer.batch_repeat_interleave(2)
        elif change == "crop":
            layer.crop(-3)
        else:
            layer.reset()
    num_rows = {"select": 2, "repeat": 6}.get(change, 3)
    for place in (7, 8):
        new = states(num_rows, 1, place)
        assert all(map(torch.equal, growing.update(*new), plain.update(*new)))


def test_gradients_flow_through_what_is_cached() -> None:
    found = []
    for kind in (GrowingLayer, DynamicLayer):
        layer, parts = kind(), [each.requires_grad_() for place in range(3) for each in states(2, 2, place)]
        total = torch.zeros(())
        for place in range(3):
            keys, values = layer.update(*parts[2 * place : 2 * place + 2])
            total = total + (keys**2).sum() * values.sum()
        total.backward()
        found.append([part.grad for part in parts])
    assert all(map(torch.equal, *found))


def test_after_training_tokens_are_appended_without() -> None:
    growing, plain = GrowingLayer(), DynamicLayer()
    for layer in (growing, plain):
        layer.update(*(each.requires_grad_() for each in states(2, 3, 0)))
    with torch.no_grad():
        for place in (1, 2):
            new = states(2, 1, place)
            assert all(map(torch.equal, growing.update(*new), plain.update(*new)))
