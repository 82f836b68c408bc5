"""Think, then recommend: against a loop that reads everything again for every token."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import ConfigError, DataError
from itemic.decode.beam import constrained_beam_search
from itemic.decode.filters import ItemFilter
from itemic.decode.naive import naive_beam_search
from itemic.decode.noise import hash_keys, uniform_noise
from itemic.decode.policy import Policy
from itemic.decode.recommender import LanguageModelRecommender
from itemic.decode.think import ThinkConfig, think_then_recommend
from itemic.decode.trie import Trie
from itemic.language import ThoughtTokens

SIZES = (4, 5)
SIDS = [(0, 0), (0, 1), (1, 4), (2, 0), (2, 2), (2, 3), (3, 1)]
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6], [5, 3, 5, 8, 9, 7, 9]]


@pytest.fixture(scope="module")
def trie() -> Trie:
    return Trie.from_codes(np.array(SIDS), SIZES)


@pytest.fixture(scope="module")
def policy(fake_policy) -> Any:
    return fake_policy(SIZES)


def words(policy: Policy) -> list[int]:
    """Returns the tokens that belong to no semantic ID."""
    return sorted(set(range(29)) - set(np.concatenate(policy.sid_tokens.level_ids).tolist()))


def naive_think(
    policy: Policy, prompt: Sequence[int], frame: ThoughtTokens, config: ThinkConfig, row: int
) -> tuple[list[int], bool]:
    """Returns the tokens that a thought writes, its stop included, and whether it ended by itself."""
    sids = [] if config.allows_sids else np.concatenate(policy.sid_tokens.level_ids).tolist()
    never, written = [*frame.never_ids, *sids], []
    for step in range(config.max_new_tokens):
        logits = last_logits(policy, [*prompt, *written])
        logits[never] = -torch.inf
        if config.temperature == 0:
            written.append(int(logits.argmax()))
        else:
            share = (logits / config.temperature).softmax(dim=0)
            order = share.argsort(descending=True).tolist()
            kept, total = [], 0.0
            while total < config.top_p and len(kept) < len(order):
                kept.append(order[len(kept)])
                total += float(share[kept[-1]])
            point = float(uniform_noise(hash_keys(config.seed, row, step))) * total
            written.append(next(token for place, token in enumerate(kept) if share[kept[: place + 1]].sum() > point))
        if tuple(written[-len(frame.stop_ids) :]) == frame.stop_ids:
            return written, True
    return written, False


def last_logits(policy: Policy, tokens: list[int]) -> torch.Tensor:
    ids = torch.tensor([tokens])
    mask = torch.ones(1, 1, len(tokens), len(tokens), dtype=torch.bool).tril()
    hidden, _ = policy.hidden(ids, mask, torch.arange(len(tokens))[None])
    return policy.logits(hidden)[0, -1].clone()


@settings(max_examples=60)
@given(data=st.data())
def test_equals_reading_everything_again_for_every_token(data: st.DataObject, fake_policy, trie) -> None:
    policy = fake_policy(SIZES, seed=data.draw(st.integers(0, 9)))
    word = words(policy)
    stop = data.draw(st.lists(st.sampled_from(word[:4]), min_size=1, max_size=2))
    then = data.draw(st.lists(st.sampled_from(word), max_size=3))
    frame = ThoughtTokens(stop_ids=tuple(stop), then_ids=tuple(then), never_ids=(word[5],))
    config = ThinkConfig(
        max_new_tokens=data.draw(st.integers(0, 12)),
        temperature=data.draw(st.sampled_from([0.0, 0.7, 2.0, 6.0])),
        top_p=data.draw(st.sampled_from([1.0, 0.8])),
        allows_sids=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 99)),
    )
    num_beams, normalize = data.draw(st.integers(1, 8)), data.draw(st.sampled_from(["legal", "full"]))
    allow = data.draw(st.one_of(st.none(), st.lists(st.integers(0, len(SIDS) - 1))))
    allowed = None if allow is None else ItemFilter.from_lists(trie, len(PROMPTS), allow=[allow] * len(PROMPTS))
    thoughts, beams = think_then_recommend(
        policy, PROMPTS, trie, num_beams, frame, config, normalize, allowed, batch_size=3
    )
    kept = SIDS if allow is None else [SIDS[item] for item in set(allow)]
    for row, prompt in enumerate(PROMPTS):
        written, is_complete = naive_think(policy, prompt, frame, config, row)
        assert thoughts.lists()[row] == (written[: -len(stop)] if is_complete else written)
        assert bool(thoughts.is_complete[row]) == is_complete
        read = [*prompt, *written, *([] if is_complete else stop), *then]
        expected = naive_beam_search(policy, read, SIDS, num_beams, normalize, kept)
        assert [SIDS[leaf] for leaf in beams.leaf[row].tolist() if leaf >= 0] == [sid for sid, _ in expected]
        found = beams.logprob[row, : len(expected)]
        torch.testing.assert_close(found, torch.tensor([score for _, score in expected], dtype=torch.float64))


def test_rows_stop_at_their_own_time_and_batches_do_not_matter(policy, trie) -> None:
    frame = ThoughtTokens(stop_ids=(words(policy)[0],), then_ids=(words(policy)[1],))
    config = ThinkConfig(max_new_tokens=30, temperature=4.0, top_p=1.0)
    prompts = PROMPTS * 4
    thoughts, beams = think_then_recommend(policy, prompts, trie, 4, frame, config, batch_size=16)
    assert len(set(thoughts.length.tolist())) > 4
    assert thoughts.is_complete.any()
    for batch_size in (1, 5):
        alone, listed = think_then_recommend(policy, prompts, trie, 4, frame, config, batch_size=batch_size)
        assert alone.lists() == thoughts.lists()
        assert listed.leaf.tolist() == beams.leaf.tolist()
        torch.testing.assert_close(listed.logprob, beams.logprob)
    other, _ = think_then_recommend(policy, prompts, trie, 4, frame, replace(config, seed=1))
    assert other.lists() != thoughts.lists()


def test_a_prompt_that_keeps_its_number_keeps_its_thought(policy, trie) -> None:
    frame = ThoughtTokens(stop_ids=(words(policy)[0],), then_ids=())
    config = ThinkConfig(max_new_tokens=20, temperature=4.0, top_p=1.0)
    together, _ = think_then_recommend(policy, PROMPTS, trie, 2, frame, config)
    for rows in ([2, 0], [3]):
        part, _ = think_then_recommend(policy, [PROMPTS[row] for row in rows], trie, 2, frame, config, rows=rows)
        assert part.lists() == [together.lists()[row] for row in rows]
    with pytest.raises(DataError, match="rows has 1 numbers for 4 prompts"):
        think_then_recommend(policy, PROMPTS, trie, 2, frame, config, rows=[0])


@pytest.mark.parametrize("max_new_tokens", [0, 3])
def test_a_thought_that_is_over_at_once_is_empty(policy, trie, max_new_tokens) -> None:
    """Every word but the stop is forbidden; with no budget at all the stop is appended, and the list is the same."""
    stop, *others = words(policy)
    frame = ThoughtTokens(stop_ids=(stop,), then_ids=(others[0],), never_ids=tuple(others))
    thoughts, beams = think_then_recommend(policy, PROMPTS, trie, 4, frame, ThinkConfig(max_new_tokens=max_new_tokens))
    assert thoughts.lists() == [[]] * 4
    assert thoughts.is_complete.tolist() == [max_new_tokens > 0] * 4
    read = [[*prompt, stop, others[0]] for prompt in PROMPTS]
    expected = constrained_beam_search(policy, read, trie, 4)
    assert beams.leaf.tolist() == expected.leaf.tolist()
    torch.testing.assert_close(beams.logprob, expected.logprob)


def test_no_semantic_id_is_written_in_a_thought_unless_allowed(policy, trie) -> None:
    codes = set(np.concatenate(policy.sid_tokens.level_ids).tolist())
    frame = ThoughtTokens(stop_ids=(words(policy)[0],), then_ids=())
    config = ThinkConfig(max_new_tokens=20, temperature=8.0, top_p=1.0)
    thoughts, _ = think_then_recommend(policy, PROMPTS, trie, 2, frame, config)
    assert not codes & set(chain(*thoughts.lists()))
    free, _ = think_then_recommend(policy, PROMPTS, trie, 2, frame, replace(config, allows_sids=True))
    assert codes & set(chain(*free.lists()))


def test_draws_have_the_models_probabilities(uniform_policy, trie) -> None:
    """One token among four words that are equally likely: 2,000 rows, each word within four standard errors."""
    policy = uniform_policy(SIZES)
    stop, *others = words(policy)
    frame = ThoughtTokens(stop_ids=(stop,), then_ids=(), never_ids=tuple(others[3:]))
    config = ThinkConfig(max_new_tokens=1, temperature=1.0, top_p=1.0)
    thoughts, _ = think_then_recommend(policy, [[1]] * 2000, trie, 1, frame, config, batch_size=500)
    counts = [int((thoughts.tokens == token).sum()) for token in others[:3]] + [int(thoughts.is_complete.sum())]
    assert sum(counts) == 2000
    assert all(abs(count - 500) < 4 * (2000 * 3 / 16) ** 0.5 for count in counts)


def test_thinks_with_a_real_network(tiny_model) -> None:
    """A tiny Qwen3 and Gemma 2; then the list is that of the ordinary search after the same tokens."""
    codes = np.unique(np.random.default_rng(0).integers(0, 8, (40, 3)), axis=0)
    trie = Trie.from_codes(codes, (8, 8, 8))
    for kind in ("qwen3", "gemma2"):
        model = tiny_model(kind, (8, 8, 8))
        opening = model.sid_tokens.opening_ids
        frame = ThoughtTokens(stop_ids=(0,), then_ids=opening, never_ids=(2,))
        prompts = [[1, *opening, 5, 12, 20, 28], [1], [1, *opening, 3, 11, 19, 28] * 2]
        config = ThinkConfig(max_new_tokens=12, temperature=2.0, seed=1)
        thoughts, beams = think_then_recommend(model, prompts, trie, 8, frame, config)
        assert set(chain(*thoughts.lists())) <= {1}
        read = [[*prompt, *thought, 0, *opening] for prompt, thought in zip(prompts, thoughts.lists(), strict=True)]
        expected = constrained_beam_search(model, read, trie, 8)
        assert beams.leaf.tolist() == expected.leaf.tolist()
        torch.testing.assert_close(beams.logprob, expected.logprob, rtol=0, atol=2e-5)


def test_prompts_of_unlike_length_think_together(fake_policy, trie, monkeypatch) -> None:
    """A second batch would double the passes through the model, which cost more than filling up a prompt."""
    policy, batches = fake_policy(SIZES), []
    read = policy.hidden

    def counting(ids: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        batches.append(len(ids))
        return read(ids, *arguments, **options)

    monkeypatch.setattr(policy, "hidden", counting)
    frame = ThoughtTokens(stop_ids=(words(policy)[0],), then_ids=(), never_ids=())
    think_then_recommend(policy, [[1], [2] * 200], trie, 2, frame, ThinkConfig(max_new_tokens=20))
    assert set(batches) == {2}


def test_a_recommender_thinks_before_its_lists(fake_policy, make_catalog) -> None:
    """The list is the ordinary one after prompt, thought and what leads over; the ordinary one stays as it was."""
    catalog = make_catalog(SIDS, SIZES)
    policy = fake_policy(SIZES, catalog_version=catalog.version)
    stop, then, *_ = words(policy)
    config = ThinkConfig(max_new_tokens=6, temperature=3.0)

    def prompt(history: Sequence[int]) -> list[int]:
        return [words(policy)[6], *history]

    plain = LanguageModelRecommender(policy, catalog, prompt)
    thinking = plain.after_thinking(prompt, ThoughtTokens(stop_ids=(stop,), then_ids=(then,)), config)
    histories, exclude = [[1, 2], [], [3]], [[0], [], [4, 5]]
    lists, thoughts = thinking.recommend_with_thoughts(histories, 7, exclude)
    read = {
        tuple(history): [*thought, stop, then] for history, thought in zip(histories, thoughts.lists(), strict=True)
    }
    expected = LanguageModelRecommender(policy, catalog, lambda history: [*prompt(history), *read[tuple(history)]])
    assert lists.item_index.tolist() == expected.recommend(histories, 7, exclude).item_index.tolist()
    assert thinking.recommend(histories, 7, exclude).score.tolist() == lists.score.tolist()
    ordinary, none = plain.recommend_with_thoughts(histories, 7, exclude)
    assert none is None
    assert ordinary.score.tolist() != lists.score.tolist()


def test_bad_arguments_are_named(policy, trie) -> None:
    for options, message in (
        ({"max_new_tokens": -1}, "max_new_tokens -1: expected at least 0"),
        ({"temperature": -0.5}, "temperature -0.5: expected at least 0"),
        ({"top_p": 0.0}, r"top_p 0.0: expected more than 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            ThinkConfig(**options)
    with pytest.raises(ConfigError, match="stop_ids is empty"):
        ThoughtTokens(stop_ids=(), then_ids=())
    with pytest.raises(ConfigError, match=r"stop_ids \[3\] and never_ids share \[3\]"):
        ThoughtTokens(stop_ids=(3,), then_ids=(), never_ids=(3, 4))
    code = int(policy.sid_tokens.level_ids[0][0])
    with pytest.raises(ConfigError, match=rf"no thought may hold \[{code}\], so none could end"):
        think_then_recommend(policy, [[1]], trie, 1, ThoughtTokens(stop_ids=(code,), then_ids=()))
    frame = ThoughtTokens(stop_ids=(words(policy)[0],), then_ids=())
    with pytest.raises(DataError, match="prompt 1 is empty"):
        think_then_recommend(policy, [[1], []], trie, 1, frame)
    with pytest.raises(ConfigError, match="num_beams must be at least 1, found 0"):
        think_then_recommend(policy, [[1]], trie, 0, frame)
    thoughts, beams = think_then_recommend(policy, [], trie, 3, frame)
    assert thoughts.lists() == []
    assert beams.leaf.shape == (0, 3)
