"""The packed sequence gives the log-probabilities and gradients of every candidate written out after its own prompt."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itemic.decode.trie import Trie
from itemic.train.rl.answers import AnswerTree
from itemic.train.rl.candidate_tree import candidate_logprobs, pack_candidates

CPU = torch.device("cpu")


def repeated_logprobs(policy: Any, prompts: list[list[int]], leaf: Tensor, answers: AnswerTree) -> Tensor:
    """Every candidate alone in a row behind its prompt, each code renormalised over the children one by one."""
    trie = answers.trie
    rows = []
    for prompt, leaves in zip(prompts, leaf.tolist(), strict=True):
        of_group = []
        for each in leaves:
            item = int(trie.items(torch.tensor(max(each, 0)))[0])
            node, tokens, logprobs = 0, list(prompt), []
            for depth in range(trie.num_levels):
                T = len(tokens)
                mask = torch.ones(1, 1, T, T, dtype=torch.bool).tril()
                hidden, _ = policy.hidden(torch.tensor([tokens]), mask, torch.arange(T)[None])
                first, last = (int(bound) for bound in trie.child_range(depth, torch.tensor(node)))
                ids = torch.from_numpy(answers.level_ids[depth])[trie.codes[depth][first:last].long()]
                legal = policy.logits(hidden[0, -1], ids).log_softmax(dim=-1)
                below = [items_below(trie, depth + 1, child) for child in range(first, last)]
                place = next(place for place, items in enumerate(below) if item in items)
                logprobs.append(legal[place])
                tokens.append(int(ids[place]))
                node = first + place
            of_group.append(torch.stack(logprobs))
        rows.append(torch.stack(of_group))
    return torch.stack(rows)


def items_below(trie: Trie, depth: int, node: int) -> set[int]:
    first, last = trie.slots(depth, torch.tensor(node))
    return set(trie.item_of_slot[int(first) : int(last)].tolist())


def answers_of(policy: Any, codes: np.ndarray, sizes: list[int]) -> AnswerTree:
    return AnswerTree.of_sids(Trie.from_codes(codes, sizes), policy.sid_tokens)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), group=st.integers(1, 6))
def test_packed_equals_repeated(fake_policy: Callable[..., Any], seed: int, sizes: list[int], group: int) -> None:
    rng = np.random.default_rng(seed)
    policy = fake_policy(sizes, seed=seed)
    codes = np.stack([rng.integers(size, size=12) for size in sizes], axis=1)
    answers = answers_of(policy, codes, sizes)
    prompts = [rng.integers(policy.vocabulary_size, size=rng.integers(1, 7)).tolist() for _ in range(3)]
    leaf = torch.from_numpy(rng.integers(answers.trie.num_leaves, size=(3, group)))
    leaf[0, group - 1] = -1
    rows = pack_candidates(prompts, leaf, answers, CPU)
    logprobs, entropy = candidate_logprobs(policy, rows, answers)
    expected = repeated_logprobs(policy, prompts, leaf, answers)
    there = leaf >= 0
    assert torch.equal(rows.is_token, there[..., None].expand_as(rows.is_token))
    torch.testing.assert_close(logprobs[there], expected[there], rtol=0, atol=1e-9)
    assert logprobs.isfinite().all()
    assert (entropy >= -1e-12).all()


@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_a_network_gives_the_same_values_and_gradients(tiny_model: Callable[..., Any], kind: str) -> None:
    model = tiny_model(kind, (8, 8, 8))
    rng = np.random.default_rng(0)
    answers = answers_of(model, rng.integers(8, size=(60, 3)), [8, 8, 8])
    prompts = [rng.integers(3, len(model.tokenizer), size=size).tolist() for size in (3, 17, 9)]
    leaf = torch.from_numpy(rng.integers(answers.trie.num_leaves, size=(3, 6)))
    rows = pack_candidates(prompts, leaf, answers, CPU)
    assert rows.input_ids.shape[1] <= 17 + 2 * 6
    weight = torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(0))
    found, expected = [], []
    for logprobs, gradients in (
        (candidate_logprobs(model, rows, answers)[0], found),
        (repeated_logprobs(model, prompts, leaf, answers), expected),
    ):
        model.network.zero_grad()
        (logprobs * weight).sum().backward()
        gradients.extend([logprobs.detach(), *(p.grad.clone() for p in model.network.parameters())])
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_entropy_of_equally_likely_codes(uniform_policy: Callable[..., Any]) -> None:
    policy = uniform_policy([4, 3])
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [2, 0]])
    answers = answers_of(policy, codes, [4, 3])
    rows = pack_candidates([[1, 2]], torch.tensor([[0, 3]]), answers, CPU)
    logprobs, entropy = candidate_logprobs(policy, rows, answers)
    third = float(np.log(1 / 3))
    torch.testing.assert_close(logprobs, torch.tensor([[[third, third], [third, 0.0]]], dtype=torch.float64))
    torch.testing.assert_close(entropy, torch.tensor([[[-third, -third], [-third, 0.0]]], dtype=torch.float64))


def test_temperature_flattens_the_policy(fake_policy: Callable[..., Any]) -> None:
    policy = fake_policy([4, 4])
    answers = answers_of(policy, np.array([[a, b] for a in range(4) for b in range(4)]), [4, 4])
    rows = pack_candidates([[1, 2]], torch.tensor([[0, 5, 10]]), answers, CPU)
    even = candidate_logprobs(policy, rows, answers, temperature=1e9)[0]
    torch.testing.assert_close(even, torch.full((1, 3, 2), float(np.log(1 / 4)), dtype=torch.float64))


def test_a_prompt_is_packed_once_with_the_codes_after_which_there_is_a_choice(fake_policy: Callable[..., Any]) -> None:
    policy = fake_policy([3, 3, 3])
    codes = np.array([[0, 0, c] for c in range(3)] + [[1, 0, 0], [1, 1, 0], [2, 0, 0]])
    answers = answers_of(policy, codes, [3, 3, 3])
    rows = pack_candidates([[5] * 10, [5] * 10], torch.tensor([[0, 1, 2, 3], [3, 4, 5, 5]]), answers, CPU)
    # 0 and 1 and the prefix 0, 0; last codes are only predicted, and one answer alone begins with 2 or 1, 0 or 1, 1.
    assert rows.input_ids.shape == (2, 10 + 2 + 1)
    assert [nodes.tolist() for nodes in rows.nodes[:2]] == [[[0], [0]], [[0, 1], [1, 1]]]
    assert rows.nodes[2][0].tolist() == [0]
    assert rows.position_ids[0].tolist() == [*range(10), 10, 10, 11]
    assert rows.is_token.all()


def test_codes_after_the_last_choice_are_no_tokens_of_a_padded_answer(fake_policy: Callable[..., Any]) -> None:
    policy = fake_policy([2, 3, 2])
    codes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 2, 0]])
    tree = Trie.from_codes(codes, [2, 3, 2])
    answers = AnswerTree(trie=tree, level_ids=policy.sid_tokens.level_ids, is_padded=True)
    rows = pack_candidates([[1]], torch.tensor([[0, 1, 2, 3, -1]]), answers, CPU)
    assert rows.is_token.int()[0].tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
