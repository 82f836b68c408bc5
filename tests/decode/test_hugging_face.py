"""The processor against ``generate`` with a table of prefixes, and against itemic's own search."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError, ConfigError, DataError
from itemic.decode import ItemFilter, Trie, constrained_beam_search
from itemic.decode.adapters.hugging_face import SidLogitsProcessor
from itemic.language import Renderer
from itemic.model import SidModel

SIZES = (8, 8, 8)
EOS = 2
Tokens = list[list[int]]


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """A tree with 7 first codes and thin ends, so that some depths have fewer nodes than there are beams."""
    return np.unique(np.random.default_rng(3).integers(0, (7, 8, 8), (40, 3)), axis=0)


@pytest.fixture(scope="module")
def trie(codes) -> Trie:
    return Trie.from_codes(codes, SIZES)


@pytest.fixture(scope="module", params=["qwen3", "gemma2"])
def model(request, tiny_model) -> SidModel:
    return tiny_model(request.param, SIZES)


@pytest.fixture(scope="module")
def plain_model(tiny_model) -> SidModel:
    return tiny_model("qwen3", SIZES, "plain")


def make_prompts(model: SidModel, codes: np.ndarray, lengths: Sequence[int]) -> Tokens:
    renderer = Renderer(model.tokenizer, model.spelling, codes, "sid-only")
    rng = np.random.default_rng(4)
    return [renderer.next_item_prompt(rng.integers(0, len(codes), length).tolist()) for length in lengths]


def generate(model: SidModel, prompts: Tokens, **options: Any) -> Tokens:
    """Returns what ``generate`` writes after prompts that are filled up on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": EOS, **options}
    with torch.no_grad():
        return model.network.generate(input_ids=ids, attention_mask=mask, **options)[:, width:].tolist()


def by_table(model: SidModel, codes: np.ndarray, width: int) -> Callable[[int, torch.Tensor], list[int]]:
    """Returns the usual constraint: a dict from written tokens to those that may follow."""
    followers: dict[tuple[int, ...], set[int]] = {}
    opening = len(model.sid_tokens.opening_ids)
    for sid in model.sid_tokens.encode(codes)[:, opening:].tolist():
        for place, token in enumerate([*sid, EOS]):
            followers.setdefault(tuple(sid[:place]), set()).add(token)
    return lambda _, ids: sorted(followers.get(tuple(ids[width:].tolist()), {EOS}))


def written(model: SidModel, codes: np.ndarray) -> set[tuple[int, ...]]:
    opening = len(model.sid_tokens.opening_ids)
    return {(*sid, EOS) for sid in model.sid_tokens.encode(codes)[:, opening:].tolist()}


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 5},
        {"max_new_tokens": 3, "num_beams": 4, "num_return_sequences": 4},
        {"max_new_tokens": 5, "num_beams": 6, "num_return_sequences": 6},
        {"max_new_tokens": 5, "num_beams": 6, "num_return_sequences": 2, "length_penalty": 0.0},
        {"max_new_tokens": 5, "do_sample": True, "top_k": 0, "num_return_sequences": 6},
        {"max_new_tokens": 5, "do_sample": True, "top_p": 0.7, "temperature": 1.4},
    ],
)
@pytest.mark.parametrize("prompt_length_is_told", [True, False])
def test_generate_writes_what_it_writes_with_a_table(model, codes, trie, options, prompt_length_is_told) -> None:
    prompts = make_prompts(model, codes, (3, 0, 1, 5))
    width = max(map(len, prompts))
    processor = SidLogitsProcessor(trie, model.sid_tokens, EOS, prompt_length=width if prompt_length_is_told else None)
    torch.manual_seed(5)
    found = generate(model, prompts, logits_processor=[processor], **options)
    torch.manual_seed(5)
    assert found == generate(model, prompts, prefix_allowed_tokens_fn=by_table(model, codes, width), **options)


@pytest.mark.parametrize("normalize", ["full", "legal"])
@pytest.mark.parametrize("num_beams", [3, 7])
def test_beams_are_those_of_our_own_search(model, codes, trie, normalize, num_beams) -> None:
    prompts = make_prompts(model, codes, (3, 0, 1, 5))
    processor = SidLogitsProcessor(trie, model.sid_tokens, EOS, normalize=normalize)
    ending = (*model.sid_tokens.closing_ids, EOS)
    for max_new_tokens, written_too in ((3, ()), (5, ending)):
        found = generate(
            model,
            prompts,
            logits_processor=[processor],
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            length_penalty=0.0,
        )
        expected = constrained_beam_search(model, prompts, trie, num_beams, normalize, ending=written_too)
        sids = model.sid_tokens.encode(codes)[expected.leaf.flatten()][:, 1:4]
        assert [row[:3] for row in found] == sids.tolist()


def test_a_plain_spelling_ends_after_its_last_code(plain_model, codes, trie) -> None:
    prompts = make_prompts(plain_model, codes, (2, 4))
    width = max(map(len, prompts))
    processor = SidLogitsProcessor(trie, plain_model.sid_tokens, EOS, prompt_length=width)
    found = generate(plain_model, prompts, logits_processor=[processor], max_new_tokens=9)
    assert {tuple(row) for row in found} <= written(plain_model, codes)
    assert found == generate(
        plain_model, prompts, prefix_allowed_tokens_fn=by_table(plain_model, codes, width), max_new_tokens=9
    )


def test_sampling_writes_real_and_allowed_items_only(model, codes, trie) -> None:
    prompts = make_prompts(model, codes, (2, 0, 3))
    allow = [[1, 5, 6], [0], list(range(20, len(codes)))]
    allowed = ItemFilter.from_lists(trie, 3, allow=allow)
    processor = SidLogitsProcessor(trie, model.sid_tokens, EOS, normalize="legal", allowed=allowed)
    options = {"max_new_tokens": 5, "do_sample": True, "temperature": 3.0, "num_return_sequences": 30, "top_k": 0}
    torch.manual_seed(0)
    found = generate(model, prompts, logits_processor=[processor], **options)
    for request, items in enumerate(allow):
        rows = {tuple(row) for row in found[30 * request : 30 * (request + 1)]}
        assert rows <= written(model, codes[items])
        assert len(rows) > 1 or len(items) == 1


@pytest.mark.parametrize("normalize", ["full", "legal"])
def test_filtered_beams_are_those_of_our_own_search(model, codes, trie, normalize) -> None:
    prompts = make_prompts(model, codes, (2, 0, 3))
    exclude = [[0, 1, 2, 3], [], list(range(10, 35))]
    allowed = ItemFilter.from_lists(trie, 3, exclude=exclude)
    processor = SidLogitsProcessor(trie, model.sid_tokens, EOS, normalize=normalize, allowed=allowed)
    found = generate(
        model,
        prompts,
        logits_processor=[processor],
        max_new_tokens=3,
        num_beams=4,
        num_return_sequences=4,
        length_penalty=0.0,
    )
    expected = constrained_beam_search(model, prompts, trie, 4, normalize, allowed)
    assert found == model.sid_tokens.encode(codes)[expected.leaf.flatten()][:, 1:4].tolist()


def test_one_processor_serves_calls_of_any_width_and_beams(model, codes, trie) -> None:
    processor = SidLogitsProcessor(trie, model.sid_tokens, EOS)
    calls = [((3, 1), 4), ((0,), 2), ((5, 5, 1), 1), ((3, 1), 4)]
    lists = [
        generate(
            model, make_prompts(model, codes, lengths), logits_processor=[processor], max_new_tokens=5, num_beams=beams
        )
        for lengths, beams in calls
    ]
    for (lengths, beams), found in zip(calls, lists, strict=True):
        alone = SidLogitsProcessor(trie, model.sid_tokens, EOS)
        prompts = make_prompts(model, codes, lengths)
        assert found == generate(model, prompts, logits_processor=[alone], max_new_tokens=5, num_beams=beams)
    assert lists[0] == lists[3]


def test_rows_that_left_the_tree_can_only_end(codes, trie, tiny_model) -> None:
    tokens = tiny_model("qwen3", SIZES).sid_tokens
    processor = SidLogitsProcessor(trie, tokens, EOS, prompt_length=1)
    absent = next(code for code in range(8) if code not in codes[:, 0])
    first, second = (tokens.level_ids[level] for level in (0, 1))
    illegal = [first[absent], second[0], 0, 10**6]
    scores = torch.randn(len(illegal), 29)
    ids = torch.tensor([[1, int(token)] for token in illegal])
    processed = processor(ids, scores)
    assert torch.isneginf(processed).sum(dim=1).tolist() == [28] * len(illegal)
    assert processed[:, EOS].tolist() == [0.0] * len(illegal)


def test_a_request_that_may_get_nothing_can_only_end(codes, trie, tiny_model) -> None:
    model = tiny_model("qwen3", SIZES)
    prompts = make_prompts(model, codes, (1, 1))
    allowed = ItemFilter.from_lists(trie, 2, allow=[[], [3]])
    processor = SidLogitsProcessor(trie, model.sid_tokens, EOS, allowed=allowed)
    nothing, one = generate(model, prompts, logits_processor=[processor], max_new_tokens=5)
    assert nothing == [EOS, 0, 0, 0, 0]
    assert tuple(one) in written(model, codes[3:4])


@settings(max_examples=60)
@given(data=st.data())
def test_what_may_follow_is_what_the_catalog_says(data: st.DataObject, tiny_model) -> None:
    """Rows of any length that written tokens, legal or not, may have brought about, against sets of tuples."""
    sizes = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    sid = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    sids = data.draw(st.lists(sid, min_size=1, max_size=12))
    tokens = TOKENS[sizes] if sizes in TOKENS else TOKENS.setdefault(sizes, tiny_model("qwen3", sizes).sid_tokens)
    vocabulary = 3 + sum(sizes) + 2
    full = [(*sid[1:], EOS) for sid in tokens.encode(np.array(sids)).tolist()]
    length = data.draw(st.integers(0, len(sizes) + 2))
    legal = st.sampled_from(full).map(lambda tokens: tokens[:length])
    anything = st.tuples(*[st.integers(3, vocabulary - 1)] * length)
    rows = data.draw(st.lists(st.one_of(legal, anything), min_size=1, max_size=6))
    processor = SidLogitsProcessor(Trie.from_codes(np.array(sids), sizes), tokens, EOS, prompt_length=2)
    scores = torch.randn(len(rows), vocabulary)
    processed = processor(torch.tensor([[1, 1, *row] for row in rows]), scores)
    for row, found, score in zip(rows, processed, scores, strict=True):
        may_follow = sorted({sid[length] for sid in full if sid[:length] == row and length < len(sid)})
        is_stuck = not may_follow
        assert (found > -torch.inf).nonzero()[:, 0].tolist() == (may_follow or [EOS])
        assert is_stuck or torch.equal(found[may_follow], score[may_follow])


TOKENS: dict[tuple[int, ...], Any] = {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_keep_their_dtype(codes, trie, tiny_model, dtype) -> None:
    tokens = tiny_model("qwen3", SIZES).sid_tokens
    for normalize in ("full", "legal"):
        processor = SidLogitsProcessor(trie, tokens, EOS, prompt_length=1, normalize=normalize)
        processed = processor(torch.tensor([[1]]), torch.randn(1, 29).to(dtype))
        assert processed.dtype == dtype
        shares = processed.double().exp().sum()
        assert normalize == "full" or float(shares) == pytest.approx(1, abs=0.02)


def test_bad_arguments_are_named(trie, tiny_model, plain_model) -> None:
    tokens = tiny_model("qwen3", SIZES).sid_tokens
    with pytest.raises(ConfigError, match="the plain spelling has no opening tokens"):
        SidLogitsProcessor(trie, plain_model.sid_tokens, EOS)
    with pytest.raises(ConfigError, match="a semantic ID and its end hold"):
        SidLogitsProcessor(trie, tokens, EOS, begins_after=[EOS])
    with pytest.raises(CatalogError, match=r"codebooks of \(8, 8, 8\) codes, the catalog has \(8, 8\)"):
        SidLogitsProcessor(Trie.from_codes(np.zeros((1, 2), dtype=int), (8, 8)), tokens, EOS)
    with pytest.raises(DataError, match=r"row 1 has no tokens \[27\]"):
        SidLogitsProcessor(trie, tokens, EOS)(torch.tensor([[1, 27], [1, 5]]), torch.zeros(2, 29))
    with pytest.raises(DataError, match="prompt_length is 4, the rows are 2 tokens long"):
        SidLogitsProcessor(trie, tokens, EOS, prompt_length=4)(torch.tensor([[1, 27]]), torch.zeros(1, 29))
    allowed = ItemFilter.from_lists(trie, 2)
    with pytest.raises(DataError, match="3 rows for the 2 requests of the filter"):
        SidLogitsProcessor(trie, tokens, EOS, allowed=allowed)(torch.tensor([[1, 27]] * 3), torch.zeros(3, 29))


def test_a_step_looks_at_the_depth_where_all_rows_stand(model, trie, codes, monkeypatch) -> None:
    processor = SidLogitsProcessor(trie, model.sid_tokens, EOS, prompt_length=2)
    read = processor._reader.children
    depths: list[int] = []
    monkeypatch.setattr(processor._reader, "children", lambda depth, node: depths.append(depth) or read(depth, node))
    tokens = [ids[code] for ids, code in zip(model.sid_tokens.level_ids, codes[5], strict=True)]
    written = [1, 1, *map(int, tokens), *model.sid_tokens.closing_ids]
    for width in range(2, len(written) + 1):
        scores = torch.zeros(2, len(model.tokenizer))
        assert (processor(torch.tensor([written[:width]] * 2), scores) > -torch.inf).any(dim=1).all()
    assert depths == [0, 1, 2]
