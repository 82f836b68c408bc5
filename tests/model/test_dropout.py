import numpy as np
import pytest
import torch
import transformers

from itemic.core.errors import ConfigError
from itemic.model.adapters import LoraConfig, add_lora, merge_adapters
from itemic.model.backbone import DecoderConfig, checkpoint_activations, make_decoder
from itemic.model.dropout import add_dropout, remove_dropout

IDS = torch.arange(3, 19)[None]


def decoder(dropout: float):
    config = DecoderConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, dropout=dropout)
    return make_decoder(config, 20, np.random.default_rng(0))


def test_acts_in_training_only():
    network, without = decoder(0.5), decoder(0.0)
    with torch.no_grad():
        assert not torch.equal(network(IDS).logits, network(IDS).logits)
        assert torch.equal(network.eval()(IDS).logits, without(IDS).logits)


def test_zero_adds_nothing():
    network = decoder(0.0)
    with torch.no_grad():
        assert torch.equal(network(IDS).logits, network(IDS).logits)
    assert not any(module._forward_hooks for module in network.modules())


def test_drops_embeddings_attention_and_feed_forward():
    network = decoder(0.5)
    layer = network.model.layers[0]
    for module in (network.model.embed_tokens, layer.self_attn, layer.mlp):
        assert len(module._forward_hooks) == 1
    with torch.no_grad():
        embedded = network.model.embed_tokens(IDS)
        kept = embedded != 0
        assert 0.3 < kept.float().mean() < 0.7
        expected = 2 * network.model.embed_tokens.weight[IDS]
        assert torch.equal(embedded[kept], expected[kept])
        hidden = torch.randn(1, 16, 16)
        angles = network.model.rotary_emb(hidden, torch.arange(16)[None])
        output, weights = layer.self_attn(hidden, position_embeddings=angles, attention_mask=None)
        assert weights is None
        assert 0.3 < (output == 0).float().mean() < 0.7


def test_same_under_activation_checkpointing():
    grads = []
    for checkpointing in (False, True):
        network = decoder(0.3)
        if checkpointing:
            checkpoint_activations(network)
        torch.manual_seed(0)
        network(IDS, labels=IDS, use_cache=False).loss.backward()
        grads.append([parameter.grad for parameter in network.parameters()])
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected)


def test_leaves_weights_and_config_as_they_are():
    assert decoder(0.5).state_dict().keys() == decoder(0.0).state_dict().keys()
    assert decoder(0.5).config.to_dict() == decoder(0.0).config.to_dict()


def small_decoder():
    return decoder(0.5)


def llama_with_lora():
    config = transformers.LlamaConfig(**SMALL, attention_dropout=0.5)
    network = transformers.LlamaForCausalLM(config)
    add_lora(network, LoraConfig(rank=2, dropout=0.5), np.arange(3, 9), np.random.default_rng(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def gpt2():
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**shape, embd_pdrop=0.4, resid_pdrop=0.5, attn_pdrop=0.3)
    )


def opt():
    """Dropout and layer drop as numbers on the modules, and in functions."""
    shape = {"ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 32, **SMALL}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**shape, dropout=0.5, layerdrop=0.3))


SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize("make", [small_decoder, llama_with_lora, gpt2, opt])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_once_removed_both_modes_compute_the_same(make, with_gradient):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make()
        checkpoint_activations(network)
        with torch.set_grad_enabled(with_gradient):
            expected = network.eval()(IDS).logits
            assert not torch.equal(network.train()(IDS, use_cache=False).logits, expected), "it does drop"
            config = network.config.to_dict()
            remove_dropout(network)
            assert all(module.training for module in network.modules())
            assert torch.equal(network(IDS, use_cache=False).logits, expected)
            assert torch.equal(network.eval()(IDS).logits, expected)
    assert network.config.to_dict() == config, "a saved folder says what it said"


def test_what_was_adapted_without_dropout_is_saved_with_that_of_its_config(tmp_path):
    network = llama_with_lora()
    remove_dropout(network)
    assert network.model.layers[0].self_attn.attention_dropout == 0
    merge_adapters(network).save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert loaded.model.layers[0].self_attn.attention_dropout == 0.5


def test_dropout_that_cannot_be_removed_is_named():
    shape = {name: value for name, value in SMALL.items() if name != "intermediate_size"}
    network = transformers.FalconForCausalLM(transformers.FalconConfig(**shape, hidden_dropout=0.5)).eval()
    with pytest.raises(ConfigError, match=r"FalconForCausalLM drops something .* config\.json"):
        remove_dropout(network)
    assert not any(module.training for module in network.modules())


def test_impossible_requests_are_refused(make_network):
    with pytest.raises(ConfigError, match=r"dropout 1\.0"):
        add_dropout(make_network("llama"), 1.0)
    with pytest.raises(ConfigError, match="no layers of self_attn and mlp"):
        add_dropout(_Headed(), 0.1)


class _Headed(torch.nn.Module):
    """A causal model with an embedding but without decoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(4, 2)

    @property
    def base_model(self) -> torch.nn.Module:
        return self

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding
