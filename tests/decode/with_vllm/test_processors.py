"""vLLM's two logits processors over batches that change, as its two runners keep them."""

from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import ConfigError

Request = namedtuple("Request", "prompt output extra_args")


def params(**extra_args: Any) -> Any:
    return SimpleNamespace(extra_args=extra_args or None)


def update(vllm: Any, size: int, removed: Any = (), added: Any = (), moved: Any = ()) -> Any:
    return vllm.BatchUpdate(batch_size=size, removed=removed, added=added, moved=moved)


class Engine:
    """What both runners do: requests come and go, one token a step."""

    def __init__(self, vllm: Any, world: Any, rng: np.random.Generator) -> None:
        self.vllm, self.world, self.rng = vllm, world, rng
        self.num_tokens = len(world.model.tokenizer)

    def sample(self, requests: list[Request], before: torch.Tensor, after: torch.Tensor) -> list[int]:
        """Returns a token for every row, having looked that rows of others are as they were."""
        tokens = []
        for row, request in enumerate(requests):
            if "itemic" not in request.extra_args:
                assert torch.equal(after[row], before[row])
            chance = after[row].double().softmax(0).numpy()
            tokens.append(int(self.rng.choice(self.num_tokens, p=chance / chance.sum())))
            request.output.append(tokens[-1])
        return tokens

    def logits(self, num_rows: int) -> torch.Tensor:
        return torch.from_numpy(self.rng.normal(size=(num_rows, self.num_tokens)).astype(np.float32))


class RowEngine(Engine):
    """A persistent batch as runner V1 keeps it: what leaves is filled from the end, and rows swap at will."""

    def __init__(self, vllm: Any, world: Any, rng: np.random.Generator) -> None:
        super().__init__(vllm, world, rng)
        self.processor = world.start(vllm)
        self.requests: list[Request] = []

    def change(self, added: list[Request], finished: list[int]) -> None:
        """Takes rows out and puts others in, in the order that vLLM's update states: removed, added, moved."""
        free, update_added, moved = sorted(finished), [], []
        rows: dict[int, Request] = {i: row for i, row in enumerate(self.requests) if i not in finished}
        for request in added:
            index = free.pop(0) if free else len(rows)
            rows[index] = request
            update_added.append((index, params(**request.extra_args), list(request.prompt), request.output))
        removed = list(reversed(free))
        while free and max(rows, default=-1) > free[0]:
            last, empty = max(rows), free.pop(0)
            rows[empty] = rows.pop(last)
            moved.append((last, empty, self.vllm.MoveDirectionality.UNIDIRECTIONAL))
        for _ in range(int(self.rng.integers(0, 3)) if len(rows) > 1 else 0):
            a, b = self.rng.choice(len(rows), 2, replace=False).tolist()
            rows[a], rows[b] = rows[b], rows[a]
            moved.append((a, b, self.vllm.MoveDirectionality.SWAP))
        self.requests = [rows[index] for index in range(len(rows))]
        self.processor.update_state(update(self.vllm, len(rows), removed, update_added, moved))

    def step(self) -> None:
        """Samples one token for every row."""
        logits = self.logits(len(self.requests))
        self.sample(self.requests, logits.clone(), self.processor.apply(logits))


class SlotEngine(Engine):
    """Slots as runner V2 keeps them: a request stays where it is, rows come in any order, prompts in chunks."""

    def __init__(self, vllm: Any, world: Any, rng: np.random.Generator) -> None:
        super().__init__(vllm, world, rng)
        self.states = SimpleNamespace(
            device=torch.device("cpu"),
            all_token_ids=SimpleNamespace(gpu=torch.zeros(100, 60, dtype=torch.int32)),
            prompt_len=SimpleNamespace(np=np.zeros(100, dtype=np.int32)),
        )
        self.processor = start_v2(vllm, world, self.states)
        self.requests: list[Request] = []
        self.slots: list[int] = []

    def change(self, added: list[Request], finished: list[int]) -> None:
        self.slots = [slot for place, slot in enumerate(self.slots) if place not in finished]
        self.requests = [request for place, request in enumerate(self.requests) if place not in finished]
        for request in added:
            slot = min(set(range(100)) - set(self.slots))
            tokens = [*request.prompt, *request.output]
            self.states.prompt_len.np[slot] = len(request.prompt)
            self.states.all_token_ids.gpu[slot] = 99
            self.states.all_token_ids.gpu[slot, : len(tokens)] = torch.tensor(tokens)
            is_constrained = self.processor.add_request(slot, params(**request.extra_args))
            assert is_constrained == ("itemic" in request.extra_args)
            self.requests.append(request)
            self.slots.append(slot)

    def step(self) -> None:
        order = [row for row in self.rng.permutation(len(self.requests)).tolist() if self.rng.random() < 0.8]
        if not order:
            return
        requests, slots = [self.requests[row] for row in order], [self.slots[row] for row in order]
        lengths = [len(request.prompt) + len(request.output) for request in requests]
        is_read = [bool(request.output) or self.rng.random() < 0.7 for request in requests]
        seen = [length if done else 1 for length, done in zip(lengths, is_read, strict=True)]
        logits = self.logits(len(order))
        before, after = logits.clone(), self.processor.apply(logits, context(self.vllm, slots, seen))
        rows = [row for row, done in enumerate(is_read) if done]
        assert torch.equal(after[[row for row, done in enumerate(is_read) if not done]], before[np.invert(is_read)])
        tokens = self.sample([requests[row] for row in rows], before[rows], after[rows])
        for row, token in zip(rows, tokens, strict=True):
            self.states.all_token_ids.gpu[slots[row], lengths[row]] = token


def start_v2(vllm: Any, world: Any, states: Any) -> Any:
    """Returns the processor over buffers of runner V2; the real record takes all of its fields."""
    if vllm.LogitsProcRequestState is not SimpleNamespace:
        others = {"max_num_reqs": 100, "vocab_size": 0, "prefill_len": None, "total_len": None}
        states = vllm.LogitsProcRequestState(**vars(states), **others)
    return vllm.SidLogitsProcessorV2(world.config, states)


def context(vllm: Any, slots: list[int], lengths: list[int]) -> Any:
    slot = torch.tensor(slots)
    return vllm.LogitsContext(
        expanded_idx_mapping=slot,
        idx_mapping=slot,
        idx_mapping_np=slot.numpy(),
        expanded_local_pos=torch.zeros_like(slot),
        input_ids=torch.zeros_like(slot),
        pos=torch.tensor(lengths) - 1,
        seq_lens_upper_bound_np=np.array(lengths, dtype=np.int32),
    )


@settings(max_examples=5)
@given(seed=st.integers(0, 2**31))
@pytest.mark.parametrize("runner", [RowEngine, SlotEngine], ids=["V1", "V2"])
def test_every_row_of_a_changing_batch_ends_in_a_real_item_that_is_allowed(vllm, wrapped, runner, seed) -> None:
    rng = np.random.default_rng(seed)
    engine, tokens = runner(vllm, wrapped, rng), wrapped.model.sid_tokens
    num_items, num_finished = len(wrapped.catalog), 0
    for _ in range(30):
        added = []
        for _ in range(rng.integers(0, 3)):
            prompt = [1, *rng.integers(3, engine.num_tokens, 3).tolist()]
            prompt += list(tokens.opening_ids) * int(rng.integers(0, 2))
            chosen = rng.choice(num_items, 5, replace=False).tolist()
            wishes = [
                {},
                {"itemic": "sid"},
                {"itemic": "sid", "itemic_exclude": [f"i{row}" for row in chosen]},
                {"itemic": "sid", "itemic_allow": chosen, "itemic_exclude": chosen[:2]},
                {"itemic": "text_then_sid"},
            ]
            added.append(Request(prompt, [], wishes[rng.integers(len(wishes))]))
        done = [i for i, row in enumerate(engine.requests) if row.output[-1:] == [wrapped.end] or len(row.output) > 20]
        for index in done:
            row = engine.requests[index]
            if row.extra_args.get("itemic") == "sid":
                num_finished += 1
                written = [*([] if row.prompt[-1:] != list(tokens.opening_ids) else tokens.opening_ids), *row.output]
                wrapped.check_answer(written, row.extra_args)
            elif row.extra_args and row.output[-1] == wrapped.end and tokens.opening_ids[0] in row.output:
                wrapped.check_answer(row.output[row.output.index(tokens.opening_ids[0]) :], row.extra_args)
        engine.change(added, done)
        if engine.requests:
            engine.step()
    assert num_finished


def test_runner_v2_goes_on_with_a_request_that_comes_back_and_knows_its_given_codes(vllm, wrapped) -> None:
    engine, tokens = SlotEngine(vllm, wrapped, np.random.default_rng(0)), wrapped.model.sid_tokens
    codes = [int(ids[code]) for ids, code in zip(tokens.level_ids, wrapped.catalog.codes[5], strict=True)]
    back = Request([1, 9], [*tokens.opening_ids, *codes], {"itemic": "sid"})
    beam = Request([1, *tokens.opening_ids, codes[0]], [], {"itemic": "sid", "itemic_num_given": 1})
    engine.change([back, beam], [])
    after = engine.processor.apply(engine.logits(2), context(vllm, engine.slots, [6, 3]))
    assert torch.isfinite(after[0]).nonzero()[:, 0].tolist() == list(tokens.closing_ids)
    seconds = {int(tokens.level_ids[1][sid[1]]) for sid in wrapped.sids if sid[0] == wrapped.catalog.codes[5, 0]}
    assert set(torch.isfinite(after[1]).nonzero()[:, 0].tolist()) == seconds


def test_runner_v2_refuses_speculative_decoding(vllm, wrapped) -> None:
    config = SimpleNamespace(**{**vars(wrapped.config), "speculative_config": object()})
    with pytest.raises(ConfigError, match="speculative decoding"):
        vllm.SidLogitsProcessorV2(config, SimpleNamespace(device=torch.device("cpu")))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_engine_writes_real_items_beside_other_requests(served, wrapped) -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    wishes = [
        {"itemic": "sid"},
        None,
        {"itemic": "sid", "itemic_allow": ["i3", 8]},
        {"itemic": "sid", "itemic_allow": []},
    ]
    params = [SamplingParams(n=4, max_tokens=9, temperature=1.0, detokenize=False, extra_args=wish) for wish in wishes]
    found = served.generate([{"prompt_token_ids": [1]}] * len(params), params, use_tqdm=False)
    assert any(output.token_ids[-1] != wrapped.end for output in found[1].outputs)
    for place in (0, 2):
        for output in found[place].outputs:
            wrapped.check_answer(list(output.token_ids), {})
            assert output.finish_reason == "stop"
    sid_of = {row: wrapped.model.sid_tokens.encode(wrapped.catalog.codes[[row]])[0].tolist() for row in (3, 8)}
    assert all(list(output.token_ids[:-1]) in sid_of.values() for output in found[2].outputs)
    opening = wrapped.model.sid_tokens.opening_ids[0]
    assert all(list(output.token_ids) == [opening, wrapped.end] for output in found[3].outputs)
    with pytest.raises(VLLMValidationError, match="itemic: expected"):
        served.generate([{"prompt_token_ids": [1]}], SamplingParams(extra_args={"itemic": "item"}), use_tqdm=False)
