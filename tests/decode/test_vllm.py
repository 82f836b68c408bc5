"""vLLM's logits processor and beam search: against the real interface where vllm is installed, and a stand-in always.

The stand-in keeps the interface of vllm 0.32.0, ``vllm/v1/sample/logits_processor/interface.py``
and ``vllm/v1/worker/gpu/sample/logits_processor/interface.py``, and no more.
"""

import enum
import importlib
import importlib.util
import sys
from collections import namedtuple
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError, ConfigError, DataError, MissingDependencyError
from itemic.core.ranking import Recommender
from itemic.decode import ItemFilter, LanguageModelRecommender, Trie, constrained_beam_search
from itemic.decode.prefix import PrefixReader
from itemic.language import Renderer, Spelling
from itemic.model import DecoderConfig, SidModel, make_decoder, make_sid_tokenizer
from itemic.sid import Catalog

SIZES = (6, 5, 7)
NAME = "itemic.decode.vllm"


@dataclass(frozen=True)
class StandInUpdate:
    batch_size: int
    removed: Any
    added: Any
    moved: Any


class StandInDirection(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


class StandInProcessor:
    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        return None


def stand_in_modules() -> dict[str, ModuleType]:
    from transformers import AutoTokenizer

    folders = ("", ".tokenizers", ".v1", ".v1.sample", ".v1.worker", ".v1.worker.gpu", ".v1.worker.gpu.sample")
    leaves = (".v1.sample.logits_processor", ".v1.worker.gpu.sample.logits_processor")
    modules = {f"vllm{name}": ModuleType(f"vllm{name}") for name in (*folders, *leaves)}
    interface, slots = (modules[f"vllm{name}"] for name in leaves)
    modules["vllm"].SamplingParams = SimpleNamespace
    modules["vllm.tokenizers"].cached_tokenizer_from_config = lambda config: AutoTokenizer.from_pretrained(
        config.tokenizer
    )
    interface.BatchUpdate = StandInUpdate
    interface.LogitsProcessor = StandInProcessor
    interface.MoveDirectionality = StandInDirection
    slots.LogitsContext = slots.LogitsProcRequestState = SimpleNamespace
    slots.LogitsProcessor = StandInProcessor
    return modules


@pytest.fixture(scope="module", params=["stand-in", "real"])
def vllm(request) -> Any:
    """itemic's adapter over one of the two interfaces."""
    modules = {}
    if request.param == "stand-in":
        modules = stand_in_modules()
    elif importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    hidden = {name: sys.modules.pop(name) for name in [*modules, NAME] if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield importlib.import_module(NAME)
    finally:
        for name in [*modules, NAME]:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


@dataclass
class World:
    """A tiny model on disk with its catalog."""

    model: SidModel
    catalog: Catalog
    trie: Trie
    config: Any

    @property
    def sids(self) -> set[tuple[int, ...]]:
        return set(map(tuple, self.catalog.codes.tolist()))

    @property
    def end(self) -> int:
        return self.model.tokenizer.eos_token_id


def make_world(folder: Any, style: str) -> World:
    spelling = Spelling(style=style, codebook_sizes=SIZES)
    tokenizer = make_sid_tokenizer(spelling)
    codes = np.unique(np.random.default_rng(3).integers(0, SIZES, (60, 3)), axis=0)
    codes = codes[np.random.default_rng(4).permutation(len(codes))]
    catalog = Catalog(codes, [f"i{row}" for row in range(len(codes))], SIZES, spelling=style)
    # vLLM's CPU attention wants heads of 32 at least.
    network = make_decoder(
        DecoderConfig(hidden_size=64, num_layers=2, num_heads=2, intermediate_size=64),
        len(tokenizer),
        np.random.default_rng(0),
    )
    with torch.no_grad():
        network.get_input_embeddings().weight.normal_(generator=torch.Generator().manual_seed(0))
    facts = {"prompt_mode": "sid-only", "prompt_version": "1", "catalog_version": catalog.version}
    model = SidModel(network.eval(), tokenizer, spelling, **facts)
    model.save(folder / "model")
    catalog.save(folder / "catalog")
    path = str(folder / "model")
    model_config = SimpleNamespace(
        model=path,
        tokenizer=path,
        skip_tokenizer_init=False,
        runner_type="generate",
        tokenizer_mode="auto",
        tokenizer_revision=None,
        trust_remote_code=False,
        logits_processors=[f"{NAME}:SidLogitsProcessorV1"],
        logprobs_mode="processed_logits",
        max_logprobs=20,
    )
    config = SimpleNamespace(
        model_config=model_config,
        additional_config={"itemic_catalog": str(folder / "catalog"), "other": 1},
        speculative_config=None,
    )
    return World(model, catalog, Trie.from_catalog(catalog), config)


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("wrapped"), "wrapped")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("plain"), "plain")


def start(vllm: Any, world: World) -> Any:
    return vllm.SidLogitsProcessorV1(world.config, torch.device("cpu"), False)


def params(**extra_args: Any) -> Any:
    return SimpleNamespace(extra_args=extra_args or None)


def update(vllm: Any, size: int, removed: Any = (), added: Any = (), moved: Any = ()) -> Any:
    return vllm.BatchUpdate(batch_size=size, removed=removed, added=added, moved=moved)


Request = namedtuple("Request", "prompt output extra_args")


class Engine:
    """What both runners do: requests come and go, one token a step."""

    def __init__(self, vllm: Any, world: World, rng: np.random.Generator) -> None:
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

    def __init__(self, vllm: Any, world: World, rng: np.random.Generator) -> None:
        super().__init__(vllm, world, rng)
        self.processor = start(vllm, world)
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

    def __init__(self, vllm: Any, world: World, rng: np.random.Generator) -> None:
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


def start_v2(vllm: Any, world: World, states: Any) -> Any:
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
                check_answer(wrapped, written, row.extra_args)
            elif row.extra_args and row.output[-1] == wrapped.end and tokens.opening_ids[0] in row.output:
                check_answer(wrapped, row.output[row.output.index(tokens.opening_ids[0]) :], row.extra_args)
        engine.change(added, done)
        if engine.requests:
            engine.step()
    assert num_finished


def check_answer(world: World, written: list[int], wish: dict[str, Any]) -> None:
    tokens = world.model.sid_tokens
    assert written[0] == tokens.opening_ids[0]
    assert written[-2:] == [*tokens.closing_ids, world.end]
    sid = tuple(tokens.level_ids[level].tolist().index(token) for level, token in enumerate(written[1:-2]))
    item = world.catalog.item(sid)
    assert f"i{item}" not in wish.get("itemic_exclude", ())
    assert item not in wish.get("itemic_exclude", ())
    assert item in wish.get("itemic_allow", [item])


def one_row(vllm: Any, world: World, prompt: list[int], output: list[int], **extra_args: Any) -> Any:
    """Returns the logits of one request before and after."""
    processor = start(vllm, world)
    processor.update_state(update(vllm, 1, added=[(0, params(**extra_args), prompt, output)]))
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(1, len(world.model.tokenizer)))).float()
    return logits[0].clone(), processor.apply(logits)[0]


@pytest.mark.parametrize("normalize", ["legal", "full"])
def test_a_row_is_left_with_log_probabilities_that_no_filter_changes(vllm, wrapped, normalize) -> None:
    ids = wrapped.model.sid_tokens.level_ids
    first = wrapped.catalog.codes[0, 0]
    seconds = sorted({sid[1] for sid in wrapped.sids if sid[0] == first})
    prompt = [1, *wrapped.model.sid_tokens.opening_ids, int(ids[0][first])]
    arguments = {"itemic": "sid", "itemic_num_given": 1, "itemic_normalize": normalize}
    before, after = one_row(vllm, wrapped, prompt, [], **arguments)
    legal = torch.from_numpy(ids[1][seconds])
    normalizer = before[legal].logsumexp(0) if normalize == "legal" else before.logsumexp(0)
    torch.testing.assert_close(after[legal], before[legal] - normalizer)
    assert torch.isfinite(after).sum() == len(seconds)
    allow = [row for row, sid in enumerate(wrapped.catalog.codes) if sid[0] == first and sid[1] == seconds[0]]
    _, filtered = one_row(vllm, wrapped, prompt, [], **arguments, itemic_allow=allow)
    assert filtered[legal[0]] == after[legal[0]]
    assert torch.isfinite(filtered).sum() == 1


@pytest.mark.parametrize(
    ("output", "extra"),
    [
        ([], {"itemic_allow": []}),
        ([], {"itemic_allow": ["unknown"]}),
        ([], {"itemic_exclude": [f"i{row}" for row in range(100)]}),
        ([2], {}),
    ],
    ids=["nothing allowed", "unknown allowed", "all excluded", "left the tree"],
)
def test_a_row_that_nothing_may_follow_can_only_end(vllm, plain, output, extra) -> None:
    _, after = one_row(vllm, plain, [1], output, itemic="sid", **extra)
    assert after[plain.end] == 0
    assert torch.isfinite(after).sum() == 1


def test_unknown_items_are_passed_over(vllm, plain) -> None:
    _, expected = one_row(vllm, plain, [1], [], itemic="sid")
    _, found = one_row(vllm, plain, [1], [], itemic="sid", itemic_exclude=["unknown", -1, 10**9])
    assert torch.equal(found, expected)


def test_text_is_free_until_the_mark_and_a_request_that_comes_back_goes_on(vllm, wrapped) -> None:
    opening, closing = wrapped.model.sid_tokens.opening_ids[0], wrapped.model.sid_tokens.closing_ids[0]
    codes = [
        int(ids[code]) for ids, code in zip(wrapped.model.sid_tokens.level_ids, wrapped.catalog.codes[5], strict=True)
    ]
    wish = {"itemic": "text_then_sid"}
    before, after = one_row(vllm, wrapped, [1, opening], [7, 8], **wish)
    assert torch.equal(before, after)
    _, after = one_row(vllm, wrapped, [1], [7, opening, *codes], **wish)
    assert (after[closing], torch.isfinite(after).sum()) == (0, 1)
    _, after = one_row(vllm, wrapped, [1], [7, opening, *codes, closing], **wish)
    assert (after[wrapped.end], torch.isfinite(after).sum()) == (0, 1)
    # After another mark the opening token is still to be written.
    _, after = one_row(vllm, wrapped, [1], [7, 8, 9], **wish, itemic_begins_after=[8, 9])
    assert (after[opening], torch.isfinite(after).sum()) == (0, 1)
    before, after = one_row(vllm, wrapped, [1], [7, 8], **wish, itemic_begins_after=[8, 9])
    assert torch.equal(before, after)


def test_text_without_any_mark_is_refused_by_ending(vllm, plain) -> None:
    _, after = one_row(vllm, plain, [1], [], itemic="text_then_sid")
    assert (after[plain.end], torch.isfinite(after).sum()) == (0, 1)
    first = plain.model.sid_tokens.level_ids[0]
    _, after = one_row(vllm, plain, [1], [9, 2], itemic="text_then_sid", itemic_begins_after=[2])
    assert set(torch.isfinite(after).nonzero()[:, 0].tolist()) <= set(first.tolist())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"itemic": "item"}, "itemic: expected sid or text_then_sid"),
        ({"itemic_allow": ["i1"]}, "itemic: expected sid or text_then_sid, found None"),
        ({"itemic": "sid", "itemic_alow": ["i1"]}, "itemic_alow: no such argument"),
        ({"itemic": "sid", "itemic_allow": "i1"}, "itemic_allow: expected a list of item ids"),
        ({"itemic": "sid", "itemic_exclude": [0.5]}, "itemic_exclude: expected a list of item ids"),
        ({"itemic": "sid", "itemic_normalize": "no"}, "itemic_normalize 'no': expected legal or full"),
        ({"itemic": "sid", "itemic_num_given": -1}, "itemic_num_given -1"),
        ({"itemic": "sid", "itemic_num_given": "1"}, "itemic_num_given: expected an integer"),
        ({"itemic": "text_then_sid", "itemic_num_given": 1}, "itemic_num_given 1"),
        ({"itemic": "sid", "itemic_begins_after": [3]}, "only for itemic = 'text_then_sid'"),
        ({"itemic": "text_then_sid", "itemic_begins_after": ["</think>"]}, "expected a list of token ids"),
    ],
)
def test_wrong_arguments_are_refused_before_the_engine(vllm, extra, message) -> None:
    with pytest.raises(ConfigError, match=message):
        vllm.SidLogitsProcessorV1.validate_params(params(**extra))


def test_requests_of_others_are_no_concern(vllm) -> None:
    vllm.SidLogitsProcessorV1.validate_params(params())
    vllm.SidLogitsProcessorV1.validate_params(params(kv_transfer_params={}))


def test_the_engine_must_name_the_catalog_that_the_model_speaks(vllm, wrapped, tmp_path) -> None:
    def start_with(additional_config: dict[str, Any]) -> Any:
        return start(vllm, World(wrapped.model, wrapped.catalog, wrapped.trie, configure(additional_config)))

    def configure(additional_config: dict[str, Any]) -> Any:
        return SimpleNamespace(model_config=wrapped.config.model_config, additional_config=additional_config)

    with pytest.raises(ConfigError, match="no 'itemic_catalog'"):
        start_with({})
    with pytest.raises(ConfigError, match=r"'itemic_catalogue'.*no such setting"):
        start_with({"itemic_catalogue": "x"})
    wrapped.catalog.remove([0]).save(tmp_path / "smaller")
    with pytest.raises(CatalogError, match="trained on catalog"):
        start_with({"itemic_catalog": str(tmp_path / "smaller")})
    start_with({"itemic_catalog": str(tmp_path / "smaller"), "itemic_allow_catalog_change": True})


def test_workers_map_the_tree_from_a_file(vllm, wrapped, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("itemic.decode.trie._WORTH_STORING", 0)
    path = tmp_path / "trie.safetensors"
    settings = {**wrapped.config.additional_config, "itemic_trie": str(path)}
    config = SimpleNamespace(**{**vars(wrapped.config), "additional_config": settings})
    world = World(wrapped.model, wrapped.catalog, wrapped.trie, config)
    for _ in range(2):
        _, after = one_row(vllm, world, [1, *wrapped.model.sid_tokens.opening_ids], [], itemic="sid")
        assert path.is_file()
        assert torch.isfinite(after).sum() == wrapped.trie.num_nodes(1)


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


class FakeLLM:
    """Answers as an engine of one-token requests would, from itemic's own model, two requests a batch."""

    def __init__(self, vllm: Any, world: World) -> None:
        self.vllm, self.world = vllm, world
        self.processor = start(vllm, world)
        self.llm_engine = SimpleNamespace(vllm_config=world.config)
        self.get_tokenizer = lambda: world.model.tokenizer
        self.num_requests = 0

    @torch.no_grad()
    def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
        answers = []
        for place in range(0, len(prompts), 2):
            answers += self.batch(
                [p["prompt_token_ids"] for p in prompts[place : place + 2]], params[place : place + 2]
            )
        self.num_requests += len(prompts)
        return answers

    def batch(self, prompts: list[list[int]], params: list[Any]) -> list[Any]:
        added = [(i, wish, prompt, []) for i, (prompt, wish) in enumerate(zip(prompts, params, strict=True))]
        for wish in params:
            self.vllm.SidLogitsProcessorV1.validate_params(wish)
        self.processor.update_state(update(self.vllm, len(added), added=added))
        logits = self.processor.apply(torch.stack([self.logits(prompt) for prompt in prompts]))
        self.processor.update_state(update(self.vllm, 0, removed=list(range(len(added)))))
        best = logits.topk(params[0].logprobs, dim=1)
        return [
            SimpleNamespace(outputs=[SimpleNamespace(logprobs=SimpleNamespace(
                token_ids=[token[0], *token], logprobs=[score[0], *score]
            ))])
            for token, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]  # fmt: skip

    def logits(self, prompt: list[int]) -> torch.Tensor:
        ids = torch.tensor([prompt])
        mask = torch.ones(1, 1, len(prompt), len(prompt), dtype=torch.bool).tril()
        hidden, _ = self.world.model.hidden(ids, mask, torch.arange(len(prompt))[None])
        return self.world.model.logits(hidden[0, -1])


@pytest.mark.parametrize("normalize", ["legal", "full"])
@pytest.mark.parametrize("is_filtered", [False, True], ids=["all", "filtered"])
@pytest.mark.parametrize("style", ["wrapped", "plain"])
def test_beams_through_an_engine_are_the_lists_of_the_search(vllm, request, style, normalize, is_filtered) -> None:
    world = request.getfixturevalue(style)
    check_beams(vllm, world, FakeLLM(vllm, world), normalize, is_filtered)


def check_beams(vllm: Any, world: World, llm: Any, normalize: str, is_filtered: bool) -> None:
    renderer = Renderer(world.model.tokenizer, world.model.spelling, world.catalog.codes, "sid-only")
    prompts = [renderer.next_item_prompt(history) for history in ([4, 9, 1], [], [7])]
    lists: dict[str, Any] = {}
    if is_filtered:
        lists = {"exclude": [[4, 9, 1], [], [7]], "allow": [list(range(30)), [3, 8], []]}
    filter_ = ItemFilter.from_lists(world.trie, 3, **lists) if lists else None
    reader = PrefixReader(world.trie, world.model.sid_tokens)
    for num_beams in (1, 8):
        found = vllm.beam_search_with_vllm(llm, prompts, reader, num_beams, normalize, **lists)
        expected = constrained_beam_search(world.model, prompts, world.trie, num_beams, normalize, filter_)
        assert found.leaf.tolist() == expected.leaf.tolist()
        torch.testing.assert_close(found.logprob, expected.logprob, rtol=0, atol=5e-5)
        assert found.num_tied_beyond.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("logits_processors", None, "without a logits processor"),
        ("logprobs_mode", "raw_logprobs", "logprobs_mode='processed_logits'"),
        ("max_logprobs", 2, "raise max_logprobs"),
    ],
)
def test_an_engine_started_otherwise_is_refused(vllm, wrapped, name, value, message) -> None:
    llm = FakeLLM(vllm, wrapped)
    config = SimpleNamespace(**{**vars(wrapped.config.model_config), name: value})
    llm.llm_engine = SimpleNamespace(vllm_config=SimpleNamespace(model_config=config))
    reader = PrefixReader(wrapped.trie, wrapped.model.sid_tokens)
    with pytest.raises(ConfigError, match=message):
        vllm.beam_search_with_vllm(llm, [[1]], reader, 8)


def test_the_recommender_lists_what_itemics_own_does(vllm, wrapped) -> None:
    renderer = Renderer(wrapped.model.tokenizer, wrapped.model.spelling, wrapped.catalog.codes, "sid-only")
    served = vllm.VllmRecommender(FakeLLM(vllm, wrapped), renderer.next_item_prompt, num_beams=8)
    own = LanguageModelRecommender(wrapped.model, wrapped.catalog, renderer.next_item_prompt, num_beams=8)
    histories = [[4, 9, 1], []]
    for lists in ({}, {"exclude": histories}, {"allow": [[1, 2], list(range(20))]}):
        found, expected = served.recommend(histories, 5, **lists), own.recommend(histories, 5, **lists)
        np.testing.assert_array_equal(found.item_index, expected.item_index)
        np.testing.assert_allclose(found.score, expected.score, rtol=0, atol=5e-5)
    assert isinstance(served, Recommender)
    with pytest.raises(DataError, match="k must be at least 1"):
        served.recommend(histories, 0)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_error_says_what_to_install() -> None:
    with pytest.raises(MissingDependencyError, match=r"docs/vllm\.md"):
        importlib.import_module(NAME)


@pytest.fixture(scope="module")
def served(wrapped) -> Any:
    """A running engine; it takes about a minute to start."""
    vllm = pytest.importorskip("vllm")
    patch = pytest.MonkeyPatch()
    patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    patch.setenv("TORCHDYNAMO_DISABLE", "1")
    name = "V2" if torch.cuda.is_available() else "V1"
    yield vllm.LLM(
        wrapped.config.model_config.model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        logits_processors=[f"{NAME}:SidLogitsProcessor{name}"],
        additional_config={"itemic_catalog": wrapped.config.additional_config["itemic_catalog"]},
        logprobs_mode="processed_logits",
    )
    patch.undo()


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
            check_answer(wrapped, list(output.token_ids), {})
            assert output.finish_reason == "stop"
    sid_of = {row: wrapped.model.sid_tokens.encode(wrapped.catalog.codes[[row]])[0].tolist() for row in (3, 8)}
    assert all(list(output.token_ids[:-1]) in sid_of.values() for output in found[2].outputs)
    opening = wrapped.model.sid_tokens.opening_ids[0]
    assert all(list(output.token_ids) == [opening, wrapped.end] for output in found[3].outputs)
    with pytest.raises(VLLMValidationError, match="itemic: expected"):
        served.generate([{"prompt_token_ids": [1]}], SamplingParams(extra_args={"itemic": "item"}), use_tqdm=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("normalize", ["legal", "full"])
@pytest.mark.parametrize("is_filtered", [False, True], ids=["all", "filtered"])
def test_a_real_engines_beams_are_the_lists_of_the_search(served, wrapped, normalize, is_filtered) -> None:
    check_beams(importlib.import_module(NAME), wrapped, served, normalize, is_filtered)
