"""One step down the tree: both ways of it against a loop over nodes, and the selection from its columns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.decode import candidates as module
from itemic.decode.candidates import (
    Candidates,
    Nodes,
    find_candidates,
    padded_candidates,
    ragged_candidates,
    top_places,
)
from itemic.decode.filters import ItemFilter
from itemic.decode.trie import Trie

Step = Callable[..., Candidates]
Child = tuple[int, float, int]


def step_by_hand(
    trie: Trie, depth: int, nodes: Nodes, logits: torch.Tensor, normalizer: torch.Tensor | None, allowed: Any
) -> list[list[list[Child]]]:
    """Returns number, log-probability and items of every open child of each node, one node at a time."""
    rows = []
    for b, row in enumerate(nodes.node.tolist()):
        rows.append([])
        for w, node in enumerate(row):
            children = range(*(int(each) for each in trie.child_range(depth, torch.tensor(node))))
            logit = torch.tensor([logits[b, w, int(trie.codes[depth][child])] for child in children])
            norm = logit.double().logsumexp(0) if normalizer is None else normalizer[b, w]
            found = []
            for child, score in zip(children, nodes.logprob[b, w] + logit - norm, strict=True):
                slots = range(*(int(each) for each in trie.slots(depth + 1, torch.tensor(child))))
                num_items = (
                    len(slots) if allowed is None else sum(int(trie.item_of_slot[slot]) in allowed[b] for slot in slots)
                )
                if num_items and score > -torch.inf:
                    found.append((child, float(score), num_items if depth + 1 == trie.num_levels else 1))
            rows[-1].append(found)
    return rows


def open_children(candidates: Candidates) -> list[list[list[Child]]]:
    columns = zip(
        *(column.tolist() for column in (candidates.node, candidates.logprob, candidates.num_items)), strict=True
    )
    return [
        [[child for child in zip(*node, strict=True) if child[1] > -torch.inf] for node in zip(*row, strict=True)]
        for row in columns
    ]


def assert_equal(found: Candidates, expected: list[list[list[Child]]]) -> None:
    for rows, expected_rows in zip(open_children(found), expected, strict=True):
        for children, expected_children in zip(rows, expected_rows, strict=True):
            assert [child[::2] for child in children] == [child[::2] for child in expected_children]
            np.testing.assert_allclose(
                [child[1] for child in children], [child[1] for child in expected_children], rtol=1e-5, atol=1e-5
            )


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("step", [padded_candidates, ragged_candidates, find_candidates])
def test_a_step_equals_a_loop_over_nodes(data: st.DataObject, step: Step) -> None:
    """Uneven trees with holes and shared SIDs, repeated and dead nodes, both normalisers, with and without a filter."""
    sizes = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    skewed = (np.array(sizes) * rng.random((data.draw(st.integers(1, 40)), len(sizes))) ** 2).astype(np.int64)
    trie = Trie.from_codes(skewed, sizes)
    depth = data.draw(st.integers(0, len(sizes) - 1))
    B, W = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    node = torch.from_numpy(rng.integers(0, trie.num_nodes(depth), (B, W)))
    logprob = torch.from_numpy(np.where(rng.random((B, W)) < 0.8, rng.normal(size=(B, W)), -np.inf)).float()
    nodes = Nodes(node, logprob, torch.ones_like(node), torch.zeros_like(node))
    logits = torch.from_numpy(rng.normal(size=(B, W, sizes[depth])) * 5).float()
    normalizer = data.draw(st.sampled_from([None, torch.from_numpy(rng.normal(size=(B, W))).float()]))
    allowed = [set(np.flatnonzero(rng.random(len(skewed)) < 0.5).tolist()) for _ in range(B)]
    allowed = data.draw(st.sampled_from([None, allowed]))
    lists = None if allowed is None else ItemFilter.from_lists(trie, B, allow=[sorted(items) for items in allowed])
    before = logits.clone()
    found = step(trie, depth, nodes, logits, normalizer, lists)
    assert_equal(found, step_by_hand(trie, depth, nodes, logits, normalizer, allowed))
    assert torch.equal(logits, before)
    assert found.node.dtype == torch.int64
    assert ((found.node >= 0) & (found.node < trie.num_nodes(depth + 1))).all()


def test_few_children_below_a_wide_node_are_scored_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice follows the children that the nodes have; the columns only hold the widest of them."""
    codes = np.array([*([0, code] for code in range(60)), *([code, 3] for code in range(1, 40))])
    trie = Trie.from_codes(codes, (40, 60))
    calls = []
    for name in ("padded_candidates", "ragged_candidates"):
        step = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, step=step, name=name: (calls.append(name), step(*given))[1])

    def columns(numbers: list[int]) -> int:
        node = torch.tensor([numbers])
        nodes = Nodes(node, torch.zeros(node.shape), node, node)
        return find_candidates(trie, 1, nodes, torch.zeros(1, len(numbers), 60)).node.shape[2]

    assert columns([0, 0]) == 60
    assert columns([5, 6, 7]) == 1
    assert columns([0, *range(1, 32)]) == 60
    assert calls == ["padded_candidates", "ragged_candidates", "ragged_candidates"]
    assert columns(list(range(40))) == 60  # every node of the depth: the search may want every child


@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 700)),
    width=st.integers(1, 60),
    seed=st.integers(0, 999),
    num_values=st.sampled_from([1, 3, 10**6]),
)
def test_top_places_hold_the_best_scores(shape: tuple[int, int], width: int, seed: int, num_values: int) -> None:
    rng = np.random.default_rng(seed)
    score = torch.from_numpy(np.where(rng.random(shape) < 0.7, rng.integers(0, num_values, shape), -np.inf))
    place = top_places(score, width)
    assert torch.equal(score.gather(1, place), score.topk(min(width, shape[1]), dim=1).values)
    assert all(len(set(row)) == len(row) for row in place.tolist())
