from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.decode.beam import constrained_beam_search
from itemic.decode.prefill import PrefixMemory, cut_batches, in_batches, read_prompts
from itemic.decode.trie import Trie

SIZES = (4, 5)
INSTRUCTION = [3, 1, 4, 1, 5, 9, 2, 6] * 12


def search(policy, prompts, **options):
    trie = Trie.from_codes(np.array(list(product(range(4), range(5)))), SIZES)
    return constrained_beam_search(policy, prompts, trie, 6, "full", **options)


def with_tails(*tails: list[int]) -> list[list[int]]:
    return [INSTRUCTION + tail for tail in tails]


def assert_same(found, expected) -> None:
    assert found.leaf.tolist() == expected.leaf.tolist()
    torch.testing.assert_close(found.logprob, expected.logprob)


def test_a_shared_beginning_is_read_once_and_changes_no_score(fake_policy) -> None:
    prompts = with_tails([7], [8, 2], [7, 7, 7], [5], [11, 2, 3])
    policy = fake_policy(SIZES)
    together = search(policy, prompts, batch_size=2)
    assert policy.num_prompt_tokens_read == len(INSTRUCTION)
    for row, prompt in enumerate(prompts):
        alone = search(fake_policy(SIZES), [prompt])
        assert together.leaf[row].tolist() == alone.leaf[0].tolist()
        torch.testing.assert_close(together.logprob[row], alone.logprob[0])


def test_prompts_that_are_the_same_keep_a_token_of_their_own(fake_policy) -> None:
    policy = fake_policy(SIZES)
    memory = PrefixMemory(policy)
    memory.learn([INSTRUCTION] * 3)
    assert memory.num_shared([INSTRUCTION] * 3) == len(INSTRUCTION) - 1
    expected = read_prompts(policy, [INSTRUCTION] * 3)
    torch.testing.assert_close(memory.read([INSTRUCTION] * 3).hidden, expected.hidden)


def test_a_prompt_that_ends_within_a_held_beginning_is_read_right(fake_policy) -> None:
    policy = fake_policy(SIZES)
    memory = PrefixMemory(policy)
    memory.learn(with_tails([7], [8], [9]))
    for prompts in ([INSTRUCTION], [INSTRUCTION[:5]], [INSTRUCTION, [*INSTRUCTION, 1]], [[2, 2]]):
        assert memory.num_shared(prompts) == 0
        torch.testing.assert_close(memory.read(prompts).hidden, read_prompts(policy, prompts).hidden)


def test_single_requests_teach_what_they_share(fake_policy) -> None:
    policy = fake_policy(SIZES)
    memory = PrefixMemory(policy)
    shared = []
    for prompt in with_tails([7, 1], [8, 2], [6, 3, 5], [5]):
        assert_same(search(policy, [prompt], memory=memory), search(fake_policy(SIZES), [prompt]))
        shared.append(memory.num_shared([prompt]))
    assert shared == [0, 0, len(INSTRUCTION), len(INSTRUCTION)]


def test_what_pays_nothing_is_not_held(fake_policy) -> None:
    memory = PrefixMemory(fake_policy(SIZES))
    memory.learn([[1, 2, 3], [1, 2, 4]])
    assert memory.num_shared([[1, 2, 3]]) == 0
    memory.learn([])


def test_memory_is_bounded_and_keeps_what_is_used(fake_policy) -> None:
    memory = PrefixMemory(fake_policy(SIZES), max_tokens=90)
    kinds = [[[kind, *INSTRUCTION, tail] for tail in (1, 2, 3)] for kind in range(9)]
    for prompts in kinds:
        memory.learn(prompts)
        memory.learn(kinds[0])
    held = [memory.num_shared(prompts) for prompts in kinds]
    assert held == [90, 0, 0, 0, 0, 0, 90, 90, 90]
    assert max(held) == 90 < len(INSTRUCTION)


def test_a_longer_beginning_starts_from_a_shorter_one(fake_policy) -> None:
    policy = fake_policy(SIZES)
    memory = PrefixMemory(policy)
    memory.learn(with_tails([7], [8]))
    prompts = with_tails([*INSTRUCTION, 1], [*INSTRUCTION, 2])
    memory.learn(prompts)
    assert memory.num_shared(prompts) == 2 * len(INSTRUCTION)
    assert policy.num_prompt_tokens_read == len(INSTRUCTION)
    torch.testing.assert_close(memory.read(prompts).hidden, read_prompts(policy, prompts).hidden)


@settings(max_examples=60)
@given(
    length=st.lists(st.integers(1, 40), min_size=1, max_size=7).map(sorted),
    batch_size=st.integers(1, 5),
    tokens_per_batch=st.integers(0, 50),
)
def test_batches_are_the_cheapest_cut(length: list[int], batch_size: int, tokens_per_batch: int) -> None:
    def cost(sizes: list[int]) -> int:
        ends = np.cumsum(sizes)
        return sum(size * length[end - 1] + tokens_per_batch for size, end in zip(sizes, ends, strict=True))

    def cuts(count: int) -> list[list[int]]:
        firsts = range(1, min(batch_size, count) + 1)
        return [[first, *rest] for first in firsts for rest in cuts(count - first)] if count else [[]]

    sizes = cut_batches(np.array(length), batch_size, tokens_per_batch)
    assert sum(sizes) == len(length)
    assert max(sizes) <= batch_size
    assert cost(sizes) == min(map(cost, cuts(len(length))))


@pytest.mark.parametrize("num_shared", [0, 5])
def test_in_batches_keeps_the_order_and_pads_little(num_shared: int) -> None:
    rng = np.random.default_rng(0)
    prompts = [[0] * (num_shared + int(size)) for size in rng.integers(30, 141, 64)]
    read, held = 0, []

    def run(rows: torch.Tensor) -> tuple[torch.Tensor]:
        nonlocal read
        read += len(rows) * (max(len(prompts[row]) for row in rows.tolist()) - num_shared)
        held.append(len(rows))
        return (rows * 10,)

    found = in_batches(prompts, 16, run, num_shared=num_shared)
    assert found is not None
    assert found[0].tolist() == [10 * row for row in range(64)]
    assert read < 1.1 * sum(len(prompt) - num_shared for prompt in prompts)
    assert max(held) <= 16
    assert len(held) < 16
