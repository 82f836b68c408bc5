import numpy as np
import pytest
import torch

from itemic.core.errors import ConfigError
from itemic.model.backbone import DecoderConfig, checkpoint_activations, make_decoder
from itemic.model.dropout import add_dropout

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
