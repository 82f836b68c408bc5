from functools import partial

import numpy as np
import pytest
import torch

from itemic.core.errors import ConfigError
from itemic.language.spelling import SidTokens, Spelling
from itemic.model.new_rows import codebook_rows, mean_rows, text_rows
from itemic.model.vocabulary import expand_vocabulary

SPELLING = Spelling(style="wrapped", codebook_sizes=(6, 6))
NUM_OLD = 30
CODES = np.random.default_rng(1).integers(0, 6, (9, 2))
INITS = {
    "mean": mean_rows,
    "text": partial(text_rows, codes=CODES, token_ids=[[3 + i, 4, 5] for i in range(9)]),
    "codebook": partial(codebook_rows, codebooks=[np.random.default_rng(2).normal(size=(6, 5))] * 2),
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def old_ids() -> torch.Tensor:
    return torch.from_numpy(rng(3).integers(0, NUM_OLD, (2, 8)))


@pytest.fixture(params=["qwen3", "llama", "gemma3", "cohere"])
def network(request, make_network):
    """Tied and untied networks of 40 rows, ten more than the tokenizer has tokens, as in Qwen's checkpoints."""
    return make_network(request.param)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("multiple", [1, 64])
def test_old_logits_are_unchanged(network, word_tokenizer, init, multiple):
    with torch.no_grad():
        before = network(old_ids()).logits[..., :NUM_OLD]
        expand_vocabulary(network, word_tokenizer, SPELLING, INITS[init], rng=rng(), pad_to_multiple_of=multiple)
        after = network(old_ids()).logits[..., :NUM_OLD]
    assert torch.equal(after, before)


def test_every_token_gets_an_id_and_a_row(network, word_tokenizer):
    new_ids = expand_vocabulary(network, word_tokenizer, SPELLING, rng=rng())
    assert new_ids.tolist() == list(range(NUM_OLD, NUM_OLD + 14))
    assert sorted(SidTokens.from_tokenizer(word_tokenizer, SPELLING).all_ids) == new_ids.tolist()
    assert network.get_input_embeddings().weight.shape[0] == network.config.vocab_size == 44
    text = f"w3 {SPELLING.write((5, 0))}w4"
    ids = word_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 2 + SPELLING.tokens_per_sid
    assert word_tokenizer.decode(ids, skip_special_tokens=True).count("<s_a_5>") == 1


def test_spare_rows_of_the_checkpoint_are_taken_first(network, word_tokenizer):
    small = Spelling(style="plain", codebook_sizes=(2, 2))
    weight = network.get_input_embeddings().weight
    before = weight.detach().clone()
    expand_vocabulary(network, word_tokenizer, small, rng=rng())
    assert network.get_input_embeddings().weight is weight
    changed = (weight != before).any(dim=1).nonzero().flatten()
    assert changed.tolist() == [30, 31, 32, 33]


@pytest.mark.parametrize("init", INITS)
def test_rows_are_the_inits_for_both_tables(make_network, word_tokenizer, init):
    network = make_network("llama")
    tables = [network.model.embed_tokens.weight, network.lm_head.weight]
    stream = rng()
    expected = [INITS[init](table.detach()[:NUM_OLD].clone(), SPELLING, stream) for table in tables]
    new_ids = expand_vocabulary(network, word_tokenizer, SPELLING, INITS[init], rng=rng())
    assert torch.equal(network.model.embed_tokens.weight[new_ids], expected[0])
    assert torch.equal(network.lm_head.weight[new_ids], expected[1])


def test_tied_tables_stay_tied(make_network, word_tokenizer):
    network = make_network("qwen3")
    expand_vocabulary(network, word_tokenizer, SPELLING, rng=rng(), pad_to_multiple_of=64)
    assert network.lm_head.weight is network.model.embed_tokens.weight
    assert network.lm_head.weight.requires_grad


def test_padding_rows_hold_the_mean(make_network, word_tokenizer):
    network = make_network("llama")
    old = network.lm_head.weight.detach()[:NUM_OLD].clone()
    expand_vocabulary(network, word_tokenizer, SPELLING, rng=rng(), pad_to_multiple_of=64)
    assert network.lm_head.weight.shape == (64, 16)
    assert network.lm_head.out_features == 64
    for row in network.lm_head.weight[44:]:
        assert torch.equal(row, old.mean(dim=0))


def test_head_bias_is_kept_and_extended(word_tokenizer):
    from transformers import PhiConfig, PhiForCausalLM

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    network = PhiForCausalLM(PhiConfig(vocab_size=40, **shape, bos_token_id=1, eos_token_id=2))
    torch.nn.init.normal_(network.lm_head.bias, generator=torch.Generator().manual_seed(0))
    old = network.lm_head.bias.detach()[:NUM_OLD].clone()
    new_ids = expand_vocabulary(network, word_tokenizer, SPELLING, rng=rng())
    assert torch.equal(network.lm_head.bias[:NUM_OLD], old)
    torch.testing.assert_close(network.lm_head.bias[new_ids], old.mean().expand(14))


def test_expanding_again_changes_nothing(network, word_tokenizer):
    expand_vocabulary(network, word_tokenizer, SPELLING, rng=rng())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert expand_vocabulary(network, word_tokenizer, SPELLING, rng=rng(1)).tolist() == []
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_larger_spelling_adds_only_what_is_new(make_network, word_tokenizer):
    network = make_network("llama")
    expand_vocabulary(network, word_tokenizer, SPELLING, rng=rng())
    before = network.lm_head.weight.detach().clone()
    larger = Spelling(style="wrapped", codebook_sizes=(8, 6))
    new_ids = expand_vocabulary(network, word_tokenizer, larger, rng=rng())
    assert word_tokenizer.convert_ids_to_tokens(new_ids.tolist()) == ["<s_a_6>", "<s_a_7>"]
    assert torch.equal(network.lm_head.weight[:44], before)


def test_global_random_state_is_left_alone(make_network, word_tokenizer):
    network = make_network("llama")
    before = torch.random.get_rng_state()
    expand_vocabulary(network, word_tokenizer, SPELLING, rng=rng())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_bad_requests_are_refused(make_network, word_tokenizer):
    network = make_network("llama")
    with pytest.raises(ConfigError, match="pad_to_multiple_of: expected at least 1, found 0"):
        expand_vocabulary(network, word_tokenizer, SPELLING, rng=rng(), pad_to_multiple_of=0)
    with pytest.raises(ConfigError, match=r"expected shape \(14, 16\), found \(3, 16\)"):
        expand_vocabulary(network, word_tokenizer, SPELLING, lambda old, spelling, rng: old[:3], rng=rng())
