import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import ArtifactError, CatalogError, ConfigError
from itemic.language.spelling import Spelling
from itemic.model.backbone import DecoderConfig, make_decoder, make_sid_tokenizer
from itemic.model.sid_model import SidModel

ARCHITECTURES = [
    "qwen2",
    "qwen2-sliding",
    "qwen3",
    "llama",
    "smollm3",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3",
    "cohere",
    "granite",
]  # as in conftest
FACTS: dict[str, Any] = {"prompt_mode": "sid-only", "prompt_version": "p1", "catalog_version": "c1"}


@pytest.fixture(params=ARCHITECTURES)
def model(request, make_network, tokenizer, spelling) -> SidModel:
    return SidModel(make_network(request.param), tokenizer, spelling, **FACTS)


def causal(num_tokens: int) -> torch.Tensor:
    return torch.ones(1, 1, num_tokens, num_tokens, dtype=torch.bool).tril()


def positions(num_rows: int, num_tokens: int) -> torch.Tensor:
    return torch.arange(num_tokens).expand(num_rows, num_tokens)


def random_ids(num_rows: int, num_tokens: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(3, 40, (num_rows, num_tokens)))


def path_to(parents: list[int], node: int) -> list[int]:
    path = [node]
    while parents[path[0]] >= 0:
        path.insert(0, parents[path[0]])
    return path


def assert_tree_equals_rows(model: SidModel, parents: list[int], ids: list[int]) -> None:
    """Every node of a tree in one sequence has the hidden state of the end of its own path."""
    paths = [path_to(parents, node) for node in range(len(parents))]
    mask = torch.zeros(1, 1, len(ids), len(ids), dtype=torch.bool)
    for node, path in enumerate(paths):
        mask[0, 0, node, path] = True
    depth = torch.tensor([[len(path) - 1 for path in paths]])
    with torch.no_grad():
        tree, _ = model.hidden(torch.tensor([ids]), mask, depth)
        for node, path in enumerate(paths):
            row = torch.tensor([[ids[i] for i in path]])
            alone, _ = model.hidden(row, causal(len(path)), positions(1, len(path)))
            torch.testing.assert_close(tree[0, node], alone[0, -1], atol=1e-5, rtol=1e-5)


def test_hidden_and_logits_equal_the_network(model):
    ids = random_ids(2, 9)
    with torch.no_grad():
        expected = model.network(ids).logits
        hidden, cache = model.hidden(ids, causal(9), positions(2, 9))
        assert cache is None
        torch.testing.assert_close(model.logits(hidden), expected)
        some = torch.tensor([39, 4, 4, 0])
        torch.testing.assert_close(model.logits(hidden, some), expected[..., some])


def test_cache_in_pieces_equals_one_pass(model):
    ids, mask, where = random_ids(2, 9), causal(9), positions(2, 9)
    with torch.no_grad():
        whole, _ = model.hidden(ids, mask, where)
        first, cache = model.hidden(ids[:, :5], mask[..., :5, :5], where[:, :5], use_cache=True)
        second, cache = model.hidden(ids[:, 5:8], mask[..., 5:8, :8], where[:, 5:8], cache, use_cache=True)
        third, cache = model.hidden(ids[:, 8:], mask[..., 8:, :], where[:, 8:], cache)
    torch.testing.assert_close(torch.cat([first, second, third], dim=1), whole, atol=1e-5, rtol=1e-5)
    assert cache is not None
    assert torch.equal(cache.positions, where)


def test_two_branches_after_one_prompt_equal_two_rows(model):
    assert_tree_equals_rows(model, parents=[-1, 0, 1, 2, 3, 4, 3, 6, 7], ids=[5, 6, 7, 8, 9, 10, 11, 12, 13])


@pytest.fixture(scope="module")
def tree_models(make_network) -> list[SidModel]:
    spelling = Spelling(style="wrapped", codebook_sizes=(4, 4))
    tokenizer = make_sid_tokenizer(spelling)
    return [SidModel(make_network(name), tokenizer, spelling, **FACTS) for name in ("qwen3", "gemma2", "gemma3")]


@settings(max_examples=10)
@given(data=st.data())
def test_any_tree_equals_its_paths(tree_models, data):
    size = data.draw(st.integers(1, 8))
    parents = [data.draw(st.integers(-1, node - 1)) for node in range(size)]
    ids = data.draw(st.lists(st.integers(1, 39), min_size=size, max_size=size))
    for model in tree_models:
        assert_tree_equals_rows(model, parents, ids)


def test_masked_padding_is_without_effect_and_finite(model):
    ids, where = random_ids(1, 4), positions(1, 4)
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.int64), ids], dim=1)
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    mask[..., 2:, 2:] = causal(4)
    with torch.no_grad():
        expected, _ = model.hidden(ids, causal(4), where)
        found, _ = model.hidden(padded, mask, torch.cat([torch.zeros(1, 2, dtype=torch.int64), where], dim=1))
    torch.testing.assert_close(found[:, 2:], expected, atol=1e-5, rtol=1e-5)
    assert found.isfinite().all()


def test_gradients_equal_the_networks_own(model):
    model.network.train()
    ids = random_ids(2, 6)
    model.network(ids, labels=ids).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.network.named_parameters()}
    model.network.zero_grad()
    hidden, _ = model.hidden(ids, causal(6), positions(2, 6))
    logits = model.logits(hidden[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    for name, parameter in model.network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_saved_folder_loads_here_and_in_plain_transformers(tmp_path, tokenizer, spelling):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = make_decoder(DecoderConfig(hidden_size=16, num_layers=1, num_heads=2), len(tokenizer), rng(0))
    model = SidModel(network, tokenizer, spelling, **FACTS)
    assert network.training, "a check at construction leaves the mode alone"
    model.save(tmp_path / "model")
    loaded = SidModel.load(tmp_path / "model")
    assert (loaded.prompt_mode, loaded.prompt_version, loaded.catalog_version) == ("sid-only", "p1", "c1")
    assert loaded.spelling == spelling
    assert not loaded.network.training
    ids = random_ids(1, 5).remainder(len(tokenizer))
    with torch.no_grad():
        expected = network.eval()(ids).logits
        assert torch.equal(loaded.network(ids).logits, expected)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True)
        assert torch.equal(plain(ids).logits, expected)
    text = "<bos>" + spelling.write((3, 2)) + spelling.write((0, 0))
    plain_tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    assert plain_tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert plain_tokenizer.decode(tokenizer(text)["input_ids"]) == text


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_saving_twice_replaces_the_folder(tmp_path, make_network, tokenizer, spelling):
    model = SidModel(make_network("qwen3"), tokenizer, spelling, **FACTS)
    model.save(tmp_path / "model")
    model.catalog_version = "c2"
    model.save(tmp_path / "model")
    assert SidModel.load(tmp_path / "model").catalog_version == "c2"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_card_is_required_and_complete(tmp_path, make_network, tokenizer, spelling):
    with pytest.raises(ArtifactError, match=r"itemic\.json: missing"):
        SidModel.load(tmp_path / "nothing")
    SidModel(make_network("qwen3"), tokenizer, spelling, **FACTS).save(tmp_path / "model")
    card = tmp_path / "model" / "itemic.json"
    values = json.loads(card.read_text())
    del values["catalog_version"]
    card.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match="catalog_version"):
        SidModel.load(tmp_path / "model")
    card.write_text(json.dumps(values | {"catalog_version": "c1", "prompt_mode": "both"}))
    with pytest.raises(ArtifactError, match="prompt_mode 'both'"):
        SidModel.load(tmp_path / "model")


def test_tokenizer_without_the_spelling_is_refused(make_network, tokenizer):
    wider = Spelling(style="wrapped", codebook_sizes=(5, 5))
    with pytest.raises(CatalogError, match="<s_a_4>"):
        SidModel(make_network("qwen3"), tokenizer, wider, **FACTS)


def test_architecture_whose_logits_differ_is_refused(make_network, tokenizer, spelling):
    network = make_network("llama")
    network.lm_head.register_forward_hook(lambda module, inputs, output: output)
    SidModel(network, tokenizer, spelling, **FACTS)
    network.register_forward_hook(lambda module, inputs, output: setattr(output, "logits", output.logits * 3))
    with pytest.raises(ConfigError, match="LlamaForCausalLM: its logits"):
        SidModel(network, tokenizer, spelling, **FACTS)


def test_kernel_without_masks_is_refused(make_network, tokenizer, spelling):
    network = make_network("qwen3")
    model = SidModel(network, tokenizer, spelling, **FACTS)
    network.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ConfigError, match="flash_attention_2"):
        model.hidden(random_ids(1, 2), causal(2), positions(1, 2))


def test_eager_and_sdpa_agree(make_network, tokenizer, spelling):
    model = SidModel(make_network("qwen3"), tokenizer, spelling, **FACTS)
    ids = random_ids(2, 6)
    with torch.no_grad():
        sdpa, _ = model.hidden(ids, causal(6), positions(2, 6))
        model.network.set_attn_implementation("eager")
        eager, _ = model.hidden(ids, causal(6), positions(2, 6))
    torch.testing.assert_close(eager, sdpa, atol=1e-5, rtol=1e-5)
