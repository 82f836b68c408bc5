"""What one row of vLLM's batch is left with, whatever it asks for, and what the engine must be told."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from itemic.core.errors import CatalogError, ConfigError
from itemic.decode.adapters.rows import RowRequest


def params(**extra_args: Any) -> Any:
    return SimpleNamespace(extra_args=extra_args or None)


def one_row(vllm: Any, world: Any, prompt: list[int], output: list[int], **extra_args: Any) -> Any:
    """Returns the logits of one request before and after."""
    processor = world.start(vllm)
    processor.update_state(
        vllm.BatchUpdate(batch_size=1, removed=(), moved=(), added=[(0, params(**extra_args), prompt, output)])
    )
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
        ([], {"itemic_num_given": 2}),
    ],
    ids=["nothing allowed", "unknown allowed", "all excluded", "left the tree", "more given than there is"],
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


@pytest.mark.parametrize("extra", [{}, {"kv_transfer_params": {}}])
def test_requests_of_others_are_no_concern(vllm, extra) -> None:
    vllm.SidLogitsProcessorV1.validate_params(params(**extra))
    assert RowRequest.from_extra_args(extra) is None


def test_the_engine_must_name_the_catalog_that_the_model_speaks(vllm, wrapped, tmp_path) -> None:
    def start_with(additional_config: dict[str, Any]) -> Any:
        return replace(wrapped, config=configure(additional_config)).start(vllm)

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
    world = replace(wrapped, config=config)
    for _ in range(2):
        _, after = one_row(vllm, world, [1, *wrapped.model.sid_tokens.opening_ids], [], itemic="sid")
        assert path.is_file()
        assert torch.isfinite(after).sum() == wrapped.trie.num_nodes(1)
