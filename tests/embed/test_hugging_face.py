import numpy as np
import pytest
import torch

from itemic.core.errors import ConfigError
from itemic.embed.encoder import EncoderOptions, TextEncoder
from itemic.embed.hugging_face import HuggingFaceEncoder, pool

TEXTS = ["blue pump", "red steel bolt nut of the valve", "seal"]
CPU = torch.device("cpu")


def make_encoder(folder, *, pooling="mean", **options):
    return HuggingFaceEncoder("tiny", folder, EncoderOptions(device=CPU, **options), pooling=pooling)


def test_pooling_by_hand_with_padding_on_either_side():
    hidden = torch.tensor([[[1.0], [2.0], [6.0], [99.0]], [[99.0], [3.0], [5.0], [4.0]]])
    mask = torch.tensor([[True, True, True, False], [False, True, True, True]])
    assert pool(hidden, mask, "mean").tolist() == [[3.0], [4.0]]
    assert pool(hidden, mask, "last").tolist() == [[6.0], [4.0]]
    assert pool(hidden, mask, "cls").tolist() == [[1.0], [3.0]]
    with pytest.raises(ConfigError, match="pooling 'max'"):
        pool(hidden, mask, "max")


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_batched_texts_get_the_vectors_they_get_alone(plain_bert, pooling):
    encoder = make_encoder(plain_bert, pooling=pooling)
    assert isinstance(encoder, TextEncoder)
    together = encoder.encode(TEXTS)
    assert together.shape == (3, 16)
    assert together.dtype == np.float32
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_normalisation_only_scales(plain_bert):
    raw = make_encoder(plain_bert, normalize=False).encode(TEXTS)
    unit = make_encoder(plain_bert).encode(TEXTS)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)


def test_instruction_goes_before_every_text(plain_bert):
    instructed = make_encoder(plain_bert, instruction="a red ").encode(TEXTS)
    written_out = make_encoder(plain_bert).encode([f"a red {text}" for text in TEXTS])
    np.testing.assert_array_equal(instructed, written_out)


def test_text_beyond_the_limit_is_cut(plain_bert):
    # Three tokens are left of five: [CLS] red [SEP].
    encoder = make_encoder(plain_bert, max_length=3)
    np.testing.assert_allclose(encoder.encode(["red steel bolt"]), encoder.encode(["red"]), atol=1e-6)


def test_limit_is_what_the_folder_states_unless_told(sentence_bert, plain_bert):
    long, cut = " ".join(["red"] * 20), " ".join(["red"] * 6)
    stated = make_encoder(sentence_bert)
    np.testing.assert_allclose(stated.encode([long]), stated.encode([cut]), atol=1e-6)
    whole = make_encoder(plain_bert)
    assert not np.allclose(whole.encode([long]), whole.encode([cut]), atol=1e-6)
    with pytest.raises(ConfigError, match="max_length 33: encoder 'tiny' reads at most 32 tokens"):
        make_encoder(plain_bert, max_length=33)


def test_half_precision_gives_float32_vectors_near_the_full_ones(plain_bert):
    half = make_encoder(plain_bert, dtype=torch.bfloat16).encode(TEXTS)
    assert half.dtype == np.float32
    full = make_encoder(plain_bert).encode(TEXTS)
    assert not np.array_equal(half, full)
    assert (np.sum(half * full, axis=1) > 0.98).all()


def test_decoder_without_padding_token_pools_its_last_token(tmp_path, plain_bert):
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    tokenizer = AutoTokenizer.from_pretrained(plain_bert, pad_token=None, eos_token="[SEP]")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    Qwen3Model(config).save_pretrained(tmp_path)
    encoder = make_encoder(tmp_path, pooling="last")
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-5)


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="encoder 'tiny': transformers cannot load"):
        make_encoder(tmp_path)


def test_loading_draws_no_bar_of_its_own(plain_bert, capfd):
    make_encoder(plain_bert)
    assert capfd.readouterr().err == ""
