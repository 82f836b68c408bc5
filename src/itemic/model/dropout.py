"""Residual and embedding dropout for networks whose config has none; leaves weights and config as they are.

Qwen3 and its like know attention dropout only, which on a CPU also turns the fused attention kernel off. Small data
wants the dropout of the first Transformer: on the embeddings and on what each block adds to the residual stream.
Forward hooks do that: no parameter is renamed, so the saved folder is a plain one, and outside training they do
nothing.

Reinforcement learning wants none of it, nor of the dropout that a backbone brings: the policy that is updated must be
the one that answered.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from itemic.core.errors import ConfigError
from itemic.model.parts import decoder_of, embedding_of

__all__ = ["add_dropout", "remove_dropout"]

_NUM_CHECKED = 16


def add_dropout(network: Any, probability: float) -> None:
    """Drops elements of the embeddings and of each block's contribution while the network is in training mode.

    The hooks go with the modules: add them after :func:`~itemic.model.vocabulary.expand_vocabulary`, which replaces the
    embedding.

    Args:
        network: A Hugging Face decoder whose layers have ``self_attn`` and ``mlp``.
        probability: Share of elements set to 0, the others being scaled by 1 / (1 - probability); 0 adds no hook.

    Raises:
        ConfigError: if the probability lies outside [0, 1) or the network has no such layers.
    """
    if not 0 <= probability < 1:
        raise ConfigError(f"dropout {probability}: expected at least 0 and below 1")
    if probability == 0:
        return
    layers = getattr(decoder_of(network), "layers", [])
    blocks = [getattr(layer, name, None) for layer in layers for name in ("self_attn", "mlp")]
    if not blocks or None in blocks:
        raise ConfigError(f"{type(network).__name__} has no layers of self_attn and mlp to put dropout on")
    for module in (embedding_of(network), *blocks):
        module.register_forward_hook(_Dropout(probability))


def remove_dropout(network: Any) -> None:
    """Turns off all dropout of a network for good, so that it computes the same in training and evaluation mode.

    The hooks of :func:`add_dropout`, dropout modules (LoRA's too), and the probabilities that modules keep as numbers
    (attention dropout, layer drop). The config keeps its values: they are of the architecture, so a folder that is
    saved afterwards says what it said, and whoever trains it next has that dropout again.

    Args:
        network: A causal language model, adapted or not; changed in place.

    Raises:
        ConfigError: if it still drops something: some architectures (Falcon, Persimmon) read their config in every
            pass.
    """
    for module in network.modules():
        for key in [key for key, hook in module._forward_hooks.items() if isinstance(hook, _Dropout)]:
            del module._forward_hooks[key]
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float) and 0 < value <= 1:
                setattr(module, name, 0.0)
    _check_drops_nothing(network)


def _check_drops_nothing(network: Any) -> None:
    """Compares a few tokens' logits in both modes; leaves every module in the mode it was in."""
    ids = torch.arange(_NUM_CHECKED, device=network.device)[None] % network.config.get_text_config().vocab_size
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            training, evaluating = (
                network.train(mode)(input_ids=ids, use_cache=False).logits for mode in (True, False)
            )
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not torch.allclose(training, evaluating, rtol=1e-3, atol=1e-3 * float(evaluating.abs().max())):
        raise ConfigError(
            f"{type(network).__name__} drops something even with the dropout of its modules off: its config must have "
            "none; set every dropout in the config.json of the backbone to 0"
        )


@dataclass(frozen=True)
class _Dropout:
    """A forward hook; attention modules return (output, weights), the others the output alone."""

    probability: float

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, tuple):
            return (self._drop(output[0]), *output[1:])
        return self._drop(output)

    def _drop(self, hidden: Tensor) -> Tensor:
        return nn.functional.dropout(hidden, self.probability, training=True)
