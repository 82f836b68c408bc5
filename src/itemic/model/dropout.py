"""Residual and embedding dropout for networks whose config has none; leaves weights and config as they are.

Qwen3 and its like know attention dropout only, which on a CPU also turns the fused attention kernel off. Small data
wants the dropout of the first Transformer: on the embeddings and on what each block adds to the residual stream.
Forward hooks do that: no parameter is renamed, so the saved folder is a plain one, and outside training they do
nothing.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from itemic.core.errors import ConfigError
from itemic.model.parts import decoder_of, embedding_of

__all__ = ["add_dropout"]


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
