import sys
from typing import Any

import numpy as np
import pytest
import torch

from itemic.core.errors import ConfigError, MissingDependencyError
from itemic.model.adapters import LoraConfig, add_lora, freeze_backbone, merge_adapters
from itemic.model.sid_model import SidModel

TRAINED = np.array([3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
FROZEN = np.setdiff1d(np.arange(40), TRAINED)
FACTS: dict[str, Any] = {"prompt_mode": "sid-only", "prompt_version": "p1", "catalog_version": "c1"}
LORA = LoraConfig(rank=2, alpha=8.0, dropout=0.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def some_ids() -> torch.Tensor:
    return torch.from_numpy(rng(3).integers(0, 40, (4, 8)))


def adapt(network: Any, how: str) -> None:
    if how == "rows":
        freeze_backbone(network, TRAINED)
    else:
        add_lora(network, LORA, TRAINED, rng())


def train(network: Any, num_steps: int = 3) -> None:
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5)
    for _ in range(num_steps):
        optimizer.zero_grad()
        network(some_ids(), labels=some_ids()).loss.backward()
        optimizer.step()


@pytest.fixture(params=["qwen3", "llama", "gemma3"])
def network(request, make_network):
    """Tied, untied, and tied with scaled embeddings."""
    return make_network(request.param)


@pytest.mark.parametrize("how", ["rows", "lora"])
def test_adapting_changes_no_output(network, how):
    with torch.no_grad():
        before = network(some_ids()).logits
        adapt(network, how)
        after = network(some_ids()).logits
    assert torch.equal(after[..., FROZEN], before[..., FROZEN])
    torch.testing.assert_close(after, before)
    assert not any(module.training for module in network.modules())


def test_old_rows_and_layers_stay_bit_for_bit(network):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    freeze_backbone(network, TRAINED)
    train(network)
    after = merge_adapters(network).state_dict()
    assert after.keys() == before.keys()
    for key, value in after.items():
        if "embed_tokens" in key or "lm_head" in key:
            assert torch.equal(value[FROZEN], before[key][FROZEN]), key
            assert (value[TRAINED] != before[key][TRAINED]).any(dim=1).all(), key
        else:
            assert torch.equal(value, before[key]), key


def test_only_new_rows_train(make_network):
    tied, untied = make_network("qwen3"), make_network("llama")
    for network in (tied, untied):
        freeze_backbone(network, TRAINED)
    names = {name: parameter.shape for name, parameter in tied.named_parameters() if parameter.requires_grad}
    assert names == {"model.embed_tokens.trained": (10, 16)}
    names = {name: parameter.shape for name, parameter in untied.named_parameters() if parameter.requires_grad}
    assert names == {"model.embed_tokens.trained": (10, 16), "lm_head.trained": (10, 16)}


def test_gradients_of_new_rows_are_those_of_the_whole_table(network):
    network(some_ids(), labels=some_ids()).loss.backward()
    expected = network.get_input_embeddings().weight.grad[TRAINED].clone()
    freeze_backbone(network, TRAINED)
    network(some_ids(), labels=some_ids()).loss.backward()
    torch.testing.assert_close(network.get_input_embeddings().trained.grad, expected, atol=1e-5, rtol=1e-4)


def test_the_padding_row_trains_if_asked(make_network):
    network = make_network("qwen3")
    freeze_backbone(network, np.array([0, 1]))
    network.get_input_embeddings()(torch.tensor([[0, 1]])).sum().backward()
    assert network.get_input_embeddings().trained.grad.abs().sum(dim=1).tolist() == [16.0, 16.0]


@pytest.mark.parametrize("how", ["rows", "lora"])
def test_merged_network_is_plain_and_equal(network, how):
    plain_class, keys = type(network), network.state_dict().keys()
    adapt(network, how)
    train(network)
    merged = merge_adapters(network)
    assert type(merged) is plain_class
    assert merged.state_dict().keys() == keys
    assert all(parameter.requires_grad for parameter in merged.parameters())
    with torch.no_grad():
        torch.testing.assert_close(merged(some_ids()).logits, network(some_ids()).logits, atol=1e-4, rtol=1e-4)
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == merged.config.tie_word_embeddings
    train(network)  # the adapted one is still in working order


def test_merging_a_plain_network_returns_it(network):
    assert merge_adapters(network) is network


@pytest.mark.parametrize("how", ["rows", "lora"])
def test_model_with_adapters_reads_saves_and_loads(tmp_path, network, tokenizer, spelling, how):
    adapt(network, how)
    train(network)
    model = SidModel(network, tokenizer, spelling, **FACTS)
    ids = some_ids()
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    positions = torch.arange(8).expand(4, 8)
    rows = torch.tensor([0, 12, 3, 39])
    with torch.no_grad():
        hidden, _ = model.hidden(ids, mask, positions)
        expected = network(ids).logits
        torch.testing.assert_close(model.logits(hidden), expected)
        torch.testing.assert_close(model.logits(hidden, rows), expected[..., rows])
        model.save(tmp_path / "model")
        loaded = SidModel.load(tmp_path / "model")
        torch.testing.assert_close(loaded.network(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_chosen_rows_and_the_whole_head_have_the_same_gradients(make_network, tokenizer, spelling):
    network = make_network("llama")
    freeze_backbone(network, TRAINED)
    model = SidModel(network, tokenizer, spelling, **FACTS)
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([3, 5, 20])
    model.logits(hidden)[:, rows].sum().backward()
    expected = network.lm_head.trained.grad.clone()
    network.lm_head.trained.grad = None
    model.logits(hidden, rows).sum().backward()
    torch.testing.assert_close(network.lm_head.trained.grad, expected)


def test_lora_trains_its_targets_and_the_rows(make_network):
    network = make_network("qwen3")
    add_lora(network, LoraConfig(rank=2, target_modules=("q_proj", "v_proj")), TRAINED, rng())
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert len(names) == 1 + 2 * 2 * 2
    assert all("lora_" in name or name == "model.embed_tokens.trained" for name in names)
    every = make_network("qwen3")
    add_lora(every, LORA, TRAINED, rng())
    names = [name for name, parameter in every.named_parameters() if parameter.requires_grad]
    assert len(names) == 1 + 2 * 7 * 2
    assert not any("lm_head" in name for name in names)


def test_lora_depends_on_its_rng_alone(make_network):
    values = []
    for seed, scramble in ((1, 5), (1, 6), (2, 6)):
        torch.manual_seed(scramble)
        network = make_network("qwen3")
        add_lora(network, LORA, TRAINED, rng(seed))
        values.append(network.model.layers[0].self_attn.q_proj.lora_A["default"].weight)
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[1], values[2])


def test_bad_requests_are_refused(make_network):
    network = make_network("qwen3")
    with pytest.raises(ConfigError, match="each from 0 to 39"):
        freeze_backbone(network, np.array([40]))
    with pytest.raises(ConfigError, match="at least one token"):
        freeze_backbone(network, np.array([], dtype=np.int64))
    with pytest.raises(ConfigError, match="nonsense"):
        add_lora(network, LoraConfig(target_modules=("nonsense",)), TRAINED, rng())
    freeze_backbone(network, TRAINED)
    with pytest.raises(ConfigError, match="merge_adapters first"):
        freeze_backbone(network, TRAINED)


@pytest.mark.parametrize("values", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}])
def test_impossible_adapters_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        LoraConfig(**values)


def test_lora_without_peft_names_the_extra(make_network, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"itemic\[peft\]"):
        add_lora(make_network("qwen3"), LORA, TRAINED, rng())
