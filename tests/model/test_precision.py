import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from itemic.core.errors import ConfigError
from itemic.language.spelling import Spelling
from itemic.model import DecoderConfig, SidModel, make_decoder, make_sid_tokenizer, precision
from itemic.model.precision import Int8Linear, PackedLinear, PreparedLinear, prepare_network


@pytest.fixture
def model() -> SidModel:
    spelling = Spelling(style="plain", codebook_sizes=(8, 8))
    tokenizer = make_sid_tokenizer(spelling)
    shape = DecoderConfig(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
    network = make_decoder(shape, len(tokenizer), np.random.default_rng(0)).eval()
    facts = {"prompt_mode": "sid-only", "prompt_version": "1", "catalog_version": ""}
    return SidModel(network, tokenizer, spelling, **facts)


@torch.no_grad()
def logits(model: SidModel) -> torch.Tensor:
    ids = torch.tensor([[1, 3, 12, 5, 17, 8]])
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool, device=model.device).tril()
    positions = torch.arange(6, device=model.device)[None]
    return model.logits(model.hidden(ids.to(model.device), mask, positions)[0]).cpu()


def num_prepared(model: SidModel) -> int:
    return sum(isinstance(module, PreparedLinear) for module in model.network.modules())


@pytest.mark.parametrize(("name", "tolerance"), [("auto", 1e-5), ("float32", 1e-5), ("int8", 0.05), ("bfloat16", 0.02)])
def test_prepared_models_score_like_the_plain_one(model, monkeypatch, name, tolerance) -> None:
    monkeypatch.setattr(precision, "_is_faster_in_bfloat16", lambda network: True)
    plain = logits(model)
    assert model.prepare_for_inference(name) == ("float32" if name == "auto" else name)
    prepared = logits(model)
    assert num_prepared(model) == 14
    assert prepared.dtype == torch.float32
    assert (prepared - plain).abs().max() <= tolerance * plain.abs().max()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 1)])
def test_layers_are_close_in_every_shape(bias, shape) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 40, bias=bias)
    x = torch.randn(*shape, 24)
    with torch.no_grad():
        expected = linear(x)
        torch.testing.assert_close(
            PackedLinear(linear.weight, linear.bias, torch.float32)(x), expected, rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            PackedLinear(linear.weight, linear.bias, torch.bfloat16)(x), expected, rtol=0, atol=0.03
        )
        torch.testing.assert_close(Int8Linear(linear)(x), expected, rtol=0, atol=0.03)


@torch.no_grad()
@pytest.mark.parametrize("prepared", [False, True])
def test_slices_of_the_head_are_its_rows(model, prepared) -> None:
    hidden = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    if prepared:
        model.prepare_for_inference("float32")
    whole = model.logits(hidden)
    for _ in range(2):
        pieces = [model.logits(hidden, slice(start, min(start + 8, 19))) for start in range(0, 19, 8)]
        torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, rtol=0, atol=1e-5)


def test_int8_is_exact_on_a_grid_of_its_own() -> None:
    """Rows whose largest entry is 127 are whole numbers of the scale 1, zeros of any scale."""
    linear = nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[127.0, -3, 5], [-127, 0, 1]]))
        linear.bias.copy_(torch.tensor([0.5, -0.5]))
        x = torch.tensor([[127.0, 1, -2], [0, 0, 0]])
        assert Int8Linear(linear)(x).tolist() == linear(x).tolist()


@pytest.mark.parametrize("kind", ["packed", "rounded", "plain"])
def test_a_prepared_model_is_neither_saved_nor_trained_nor_prepared_again(model, tmp_path, monkeypatch, kind) -> None:
    if kind != "packed":
        monkeypatch.setattr(precision, "can_pack", lambda dtype: False)
        monkeypatch.setattr(precision, "_is_faster_in_bfloat16", lambda network: True)
    model.prepare_for_inference({"packed": "int8", "rounded": "bfloat16", "plain": "float32"}[kind])
    assert not any(module.training for module in model.network.modules())
    with pytest.raises(ConfigError, match="packed or rounded; load it again"):
        model.save(tmp_path / "model")
    with pytest.raises(ConfigError, match="cannot be trained"):
        model.network.train()
    with pytest.raises(ConfigError, match="packed or rounded"):
        model.prepare_for_inference("float32")
    assert not (tmp_path / "model").exists()


def test_plain_layers_stay_where_nothing_can_be_packed(model, monkeypatch, caplog) -> None:
    monkeypatch.setattr(precision, "can_pack", lambda dtype: False)
    plain = logits(model)
    with caplog.at_level(logging.WARNING):
        assert prepare_network(model.network, "bfloat16") == "float32"
    assert "no faster than float32" in caplog.text
    assert num_prepared(model) == 0
    assert logits(model).equal(plain)


@pytest.mark.parametrize(("seconds", "is_taken"), [(0.89, True), (0.91, False)])
def test_bfloat16_is_taken_only_where_the_probe_finds_it_faster(model, monkeypatch, seconds, is_taken) -> None:
    """On a clock that only the probed layers move; the largest layer is the one that is asked."""
    clock, probed = [0.0], set()

    class TimedLayer(nn.Module):
        def __init__(self, weight, bias, dtype) -> None:
            super().__init__()
            self.dtype = dtype
            probed.add(weight.numel())

        def forward(self, x):
            clock[0] += seconds if self.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(precision, "PackedLinear", TimedLayer)
    monkeypatch.setattr(precision, "can_pack", lambda dtype: True)
    assert precision._is_faster_in_bfloat16(model.network) is is_taken
    assert probed == {32 * 48}


def test_layers_in_bfloat16_keep_embedding_and_head_in_float32(model) -> None:
    """What bfloat16 is on a CUDA device, on the CPU."""
    plain = logits(model)
    precision._round_layers(model.network)
    rounded = logits(model)
    assert rounded.dtype == torch.float32
    assert model.network.get_input_embeddings().weight.dtype == torch.float32
    assert 0 < (rounded - plain).abs().max() <= 0.05 * plain.abs().max()


@torch.no_grad()
def test_layers_in_bfloat16_know_far_positions_as_exactly(model) -> None:
    """Rotary frequencies are no weights: rounded, they would be off by radians here."""
    rotary = model.network.model.rotary_emb
    positions = torch.arange(1000, 1500)[None]
    expected = rotary(torch.zeros(1), positions)
    precision._round_layers(model.network)
    assert {buffer.dtype for buffer in model.network.buffers()} == {torch.float32}
    for found, exact in zip(rotary(torch.zeros(1), positions), expected, strict=True):
        assert found.equal(exact)


def test_networks_that_cannot_be_prepared_as_asked_are_refused(model) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1)
    gpt2 = GPT2LMHeadModel(shape).eval()
    for name in ("int8", "bfloat16"):
        with pytest.raises(ConfigError, match=f"dtype {name}: GPT2LMHeadModel has layers of type Conv1D"):
            prepare_network(gpt2, name)
    assert prepare_network(gpt2, "float32") == "float32"
    with pytest.raises(ConfigError, match="is bfloat16, expected float32"):
        model.network.bfloat16()
        model.prepare_for_inference("float32")


def test_int8_is_refused_beside_a_cpu(model) -> None:
    with pytest.raises(ConfigError, match="int8 on meta: it is made for CPUs"):
        prepare_network(copy.deepcopy(model.network).to("meta"), "int8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_layers_score_the_same(model) -> None:
    expected = logits(model)
    model.prepare_for_inference("float32", compile=True)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compile", [False, True])
def test_bfloat16_on_cuda(model, compile) -> None:
    plain = logits(model)
    model.network.to("cuda")
    assert prepare_network(model.network, "auto", compile=compile) == "bfloat16"
    rounded = logits(model)
    assert (rounded - plain).abs().max() <= 0.05 * plain.abs().max()
