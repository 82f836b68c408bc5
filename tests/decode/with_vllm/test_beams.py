"""Beam search through a vLLM engine against itemic's own."""

import importlib
import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from itemic.core.errors import ConfigError, DataError, MissingDependencyError
from itemic.core.ranking import Recommender
from itemic.decode import ItemFilter, LanguageModelRecommender, constrained_beam_search
from itemic.decode.adapters.prefix import PrefixReader
from itemic.language import Renderer

NAME = "itemic.decode.adapters.vllm"


class FakeLLM:
    """Answers as an engine of one-token requests would, from itemic's own model, two requests a batch."""

    def __init__(self, vllm: Any, world: Any) -> None:
        self.vllm, self.world = vllm, world
        self.processor = world.start(vllm)
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
        self.processor.update_state(self.vllm.BatchUpdate(batch_size=len(added), removed=(), added=added, moved=()))
        logits = self.processor.apply(torch.stack([self.logits(prompt) for prompt in prompts]))
        self.processor.update_state(
            self.vllm.BatchUpdate(batch_size=0, removed=list(range(len(added))), added=(), moved=())
        )
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


def check_beams(vllm: Any, world: Any, llm: Any, normalize: str, is_filtered: bool) -> None:
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("normalize", ["legal", "full"])
@pytest.mark.parametrize("is_filtered", [False, True], ids=["all", "filtered"])
def test_a_real_engines_beams_are_the_lists_of_the_search(served, wrapped, normalize, is_filtered) -> None:
    check_beams(importlib.import_module(NAME), wrapped, served, normalize, is_filtered)
