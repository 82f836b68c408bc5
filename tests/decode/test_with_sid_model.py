"""The search over a real network: a tiny Qwen3 and, for windows and soft caps, a tiny Gemma 2."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from itemic.decode import BeamResult, LanguageModelRecommender, Trie, constrained_beam_search
from itemic.decode.naive import naive_beam_search
from itemic.decode.prefill import PrefixMemory
from itemic.decode.think import ThinkConfig, Thoughts, think_then_recommend
from itemic.language import Renderer
from itemic.language.thoughts import ThoughtTokens
from itemic.model import SidModel

SIZES = (8, 8, 8)
NUM_BEAMS = 10


@pytest.fixture(scope="module", params=["qwen3", "gemma2"])
def model(request, tiny_model) -> SidModel:
    return tiny_model(request.param, SIZES)


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.unique(rng.integers(0, SIZES, (90, 3)), axis=0)


@pytest.fixture(scope="module")
def prompts(model, codes) -> list[list[int]]:
    renderer = Renderer(model.tokenizer, model.spelling, codes, "sid-only")
    rng = np.random.default_rng(4)
    return [renderer.next_item_prompt(rng.integers(0, len(codes), length).tolist()) for length in (3, 0, 1, 5)]


@pytest.mark.parametrize("normalize", ["legal", "full"])
def test_lists_are_identical_to_the_naive_search(model, codes, prompts, normalize) -> None:
    sids = list(map(tuple, codes.tolist()))
    result = constrained_beam_search(model, prompts, Trie.from_codes(codes, SIZES), NUM_BEAMS, normalize)
    assert result.logprob.dtype == torch.float32
    for row, prompt in enumerate(prompts):
        expected = naive_beam_search(model, prompt, sids, NUM_BEAMS, normalize)
        assert [sids[leaf] for leaf in result.leaf[row].tolist()] == [sid for sid, _ in expected]
        np.testing.assert_allclose(result.logprob[row], [score for _, score in expected], rtol=0, atol=2e-5)


def test_a_shared_beginning_leaves_the_naive_lists(model, codes, prompts) -> None:
    """The beginning is longer than the sliding window, and one beam's own tokens are fewer than it."""
    beginning = [*prompts[3], *prompts[0][1:]] * 3
    longer = [beginning + prompt[1:] for prompt in prompts]
    memory = PrefixMemory(model)
    sids = list(map(tuple, codes.tolist()))
    trie = Trie.from_codes(codes, SIZES)
    for _ in range(2):
        result = constrained_beam_search(model, longer, trie, NUM_BEAMS, "full", batch_size=2, memory=memory)
        assert memory.num_shared(longer) >= len(beginning)
        for row, prompt in enumerate(longer):
            expected = naive_beam_search(model, prompt, sids, NUM_BEAMS, "full")
            assert [sids[leaf] for leaf in result.leaf[row].tolist()] == [sid for sid, _ in expected]
            np.testing.assert_allclose(result.logprob[row], [score for _, score in expected], rtol=0, atol=2e-5)


@pytest.mark.parametrize("num_thought", [0, 40])
def test_a_cache_that_appends_in_place_changes_no_list(model, codes, prompts, monkeypatch, num_thought) -> None:
    trie = Trie.from_codes(codes, SIZES)
    frame = ThoughtTokens(stop_ids=(0, 0), then_ids=(3,))
    config = ThinkConfig(max_new_tokens=num_thought, allows_sids=True)

    def search() -> tuple[Thoughts, BeamResult]:
        return think_then_recommend(model, prompts * 2, trie, NUM_BEAMS, frame, config, "full", batch_size=3)

    thoughts, beams = search()
    monkeypatch.setattr("itemic.model.sid_model.new_cache", DynamicCache)
    expected_thoughts, expected = search()
    assert thoughts.tokens.equal(expected_thoughts.tokens)
    assert beams.leaf.equal(expected.leaf)
    torch.testing.assert_close(beams.logprob, expected.logprob, rtol=0, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("normalize", ["legal", "full"])
def test_cuda_gives_the_lists_of_the_cpu(model, codes, prompts, normalize) -> None:
    trie = Trie.from_codes(codes, SIZES)
    expected = constrained_beam_search(model, prompts * 20, trie, NUM_BEAMS, normalize, ending=[2])
    model.network.to("cuda")
    try:
        found = constrained_beam_search(model, prompts * 20, trie, NUM_BEAMS, normalize, ending=[2])
    finally:
        model.network.to("cpu")
    assert found.leaf.cpu().equal(expected.leaf)
    torch.testing.assert_close(found.logprob.cpu(), expected.logprob, rtol=0, atol=1e-4)


def test_half_precision_runs_and_scores_in_float32(model, codes, prompts) -> None:
    trie = Trie.from_codes(codes, SIZES)
    exact = constrained_beam_search(model, prompts, trie, NUM_BEAMS)
    model.network.bfloat16()
    try:
        rough = constrained_beam_search(model, prompts, trie, NUM_BEAMS)
    finally:
        model.network.float()
    assert rough.logprob.dtype == torch.float32
    torch.testing.assert_close(rough.logprob[:, 0], exact.logprob[:, 0], rtol=0, atol=0.3)


def test_recommends_real_items_from_the_renderers_prompt(model, codes, make_catalog) -> None:
    catalog = make_catalog(codes, SIZES, spelling="wrapped")
    renderer = Renderer(model.tokenizer, model.spelling, codes, "sid-only")
    recommender = LanguageModelRecommender(model, catalog, renderer.next_item_prompt, allow_catalog_change=True)
    histories = [[4, 5], [], [6]]
    lists = recommender.recommend(histories, 10, exclude=histories)
    assert (lists.item_index >= 0).all()
    assert not {4, 5} & set(lists.item_index[0].tolist())
    assert (np.diff(lists.score) <= 0).all()
