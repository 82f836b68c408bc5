"""The packed sequence gives the log-probabilities and gradients of every candidate written out after its own prompt."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itemic.decode.filters import ItemFilter
from itemic.decode.trie import Trie
from itemic.train.rl.answers import AnswerTree, Question, allowed_items
from itemic.train.rl.candidate_tree import candidate_logprobs, pack_candidates
from itemic.train.rl.rollout import RolloutConfig, roll_out

CPU = torch.device("cpu")


def repeated(
    policy: Any,
    prompts: list[list[int]],
    leaf: Tensor,
    answers: AnswerTree,
    closed: Sequence[Collection[int]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Every candidate alone in a row behind its prompt: log p of each code among the children that lead to an item
    that is not closed, one by one, and the entropies."""
    trie = answers.trie
    rows, entropies = [], []
    for row, (prompt, leaves) in enumerate(zip(prompts, leaf.tolist(), strict=True)):
        of_group, choices = [], []
        for each in leaves:
            item = int(trie.items(torch.tensor(max(each, 0)))[0])
            node, tokens, logprobs, entropy = 0, list(prompt), [], []
            for depth in range(trie.num_levels):
                T = len(tokens)
                mask = torch.ones(1, 1, T, T, dtype=torch.bool).tril()
                hidden, _ = policy.hidden(torch.tensor([tokens]), mask, torch.arange(T)[None])
                first, last = (int(bound) for bound in trie.child_range(depth, torch.tensor(node)))
                ids = torch.from_numpy(answers.level_ids[depth])[trie.codes[depth][first:last].long()]
                below = [items_below(trie, depth + 1, child) for child in range(first, last)]
                place = next(place for place, items in enumerate(below) if item in items)
                is_open = [closed is None or not items <= set(closed[row]) or item in items for items in below]
                logits = policy.logits(hidden[0, -1], ids)
                legal = torch.where(torch.tensor(is_open), logits, -torch.inf).log_softmax(dim=-1)
                logprobs.append(legal[place])
                entropy.append(-(legal[is_open].exp() * legal[is_open]).sum())
                tokens.append(int(ids[place]))
                node = first + place
            of_group.append(torch.stack(logprobs))
            choices.append(torch.stack(entropy))
        rows.append(torch.stack(of_group))
        entropies.append(torch.stack(choices))
    return torch.stack(rows), torch.stack(entropies)


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
    expected, expected_entropy = repeated(policy, prompts, leaf, answers)
    there = leaf >= 0
    assert torch.equal(rows.is_token, there[..., None].expand_as(rows.is_token))
    torch.testing.assert_close(logprobs[there], expected[there], rtol=0, atol=1e-9)
    torch.testing.assert_close(entropy[there], expected_entropy[there], rtol=0, atol=1e-9)
    assert logprobs.isfinite().all()
    assert entropy.isfinite().all()


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_only_what_leads_to_an_allowed_answer_shares_the_probability(
    fake_policy: Callable[..., Any], seed: int, sizes: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    policy = fake_policy(sizes, seed=seed)
    answers = answers_of(policy, np.stack([rng.integers(size, size=12) for size in sizes], axis=1), sizes)
    prompts = [rng.integers(policy.vocabulary_size, size=rng.integers(1, 7)).tolist() for _ in range(4)]
    closed = [rng.permutation(12)[: rng.integers(0, 13)].tolist() for _ in prompts]
    leaf = torch.from_numpy(rng.integers(answers.trie.num_leaves, size=(4, 1)))  # alone: its path is open to no other
    leaf[3] = -1
    head = policy.head.requires_grad_()
    rows = pack_candidates(prompts, leaf, answers, CPU, ItemFilter.from_lists(answers.trie, 4, exclude=closed))
    logprobs, entropy = candidate_logprobs(policy, rows, answers)
    expected, expected_entropy = repeated(policy, prompts, leaf, answers, closed)
    torch.testing.assert_close(logprobs[:3], expected[:3], rtol=0, atol=1e-9)
    torch.testing.assert_close(entropy[:3], expected_entropy[:3], rtol=0, atol=1e-9)
    logprobs[:3].sum().backward()
    assert head.grad.isfinite().all()


@pytest.mark.parametrize("sampler", ["gumbel", "top-k"])
def test_what_learns_is_what_was_sampled_from(fake_policy: Callable[..., Any], sampler: Any) -> None:
    sizes, rng = [4, 5, 6], np.random.default_rng(1)
    policy = fake_policy(sizes, seed=1)
    answers = answers_of(policy, np.stack([rng.integers(size, size=60) for size in sizes], axis=1), sizes)
    questions = [
        Question(task=0, prompt=[1 + row, 2], targets=[row], history=rng.integers(60, size=30).tolist())
        for row in range(8)
    ]
    seen = [question.seen for question in questions]
    config = RolloutConfig(sampler=sampler, group_size=10, temperature=2.0)
    rollout = roll_out(policy, questions, answers, config, seed=0, exclude=seen)
    allowed = allowed_items(questions, answers, seen)
    learned = {}
    for name, filtered in (("allowed", allowed), ("all", None)):
        rows = pack_candidates([question.prompt for question in questions], rollout.leaf, answers, CPU, filtered)
        learned[name] = candidate_logprobs(policy, rows, answers, 2.0)[0].sum(dim=-1).float()
    there = rollout.is_candidate
    torch.testing.assert_close(learned["allowed"][there], rollout.logprob[there], rtol=0, atol=1e-6)
    assert (learned["all"][there] - rollout.logprob[there]).abs().max() > 0.1


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
        (repeated(model, prompts, leaf, answers)[0], expected),
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


def test_head_rows_are_found_once_for_each_number_of_levels(fake_policy: Callable[..., Any]) -> None:
    ids = (np.array([7, 3, 5]), np.array([3, 9]))
    answers = AnswerTree(trie=Trie.from_codes(np.array([[0, 0], [2, 1]]), [3, 2]), level_ids=ids)
    token_ids, places = answers.head_rows(2)
    assert token_ids.tolist() == [3, 5, 7, 9]
    assert [token_ids[place].tolist() for place in places] == [[7, 3, 5], [3, 9]]
    assert answers.head_rows(1)[0].tolist() == [3, 5, 7]
    assert answers.to(CPU) is answers
    assert answers.to(CPU).head_rows(2)[0] is token_ids


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_rows_and_values_of_the_cpu(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("qwen3", (8, 8, 8))
    rng = np.random.default_rng(0)
    answers = answers_of(model, rng.integers(8, size=(60, 3)), [8, 8, 8])
    prompts = [rng.integers(3, len(model.tokenizer), size=size).tolist() for size in (3, 17, 9)]
    leaf = torch.from_numpy(rng.integers(answers.trie.num_leaves, size=(3, 6)))
    leaf[1, 4:] = -1
    allowed = ItemFilter.from_lists(answers.trie, 3, exclude=[[0, 1], [], list(range(50))])
    found = []
    for device in (CPU, torch.device("cuda")):
        model.network.to(device)
        rows = pack_candidates(prompts, leaf, answers, device, allowed)
        values = candidate_logprobs(model, rows, answers.to(device))
        found.append([each.detach().cpu() for each in (rows.input_ids, rows.mask, rows.is_token, *values)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
