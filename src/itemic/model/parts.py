"""Where the parts of a Hugging Face causal language model are, and what it does before and after its layers.

Which layers attend through a window, and how the head's product becomes logits, differ between architectures; both
are read from the config here. Knows nothing of semantic IDs, and imports no transformers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError

__all__ = [
    "AttentionWindow",
    "HeadRule",
    "attention_window",
    "decoder_of",
    "embedding_of",
    "head_of",
    "head_rule",
    "is_tied",
]

_FULL, _SLIDING = "full_attention", "sliding_attention"


def decoder_of(network: Any) -> Any:
    """Returns the module from token ids to final-norm hidden states: the network without its head."""
    return network.base_model


def embedding_of(network: Any) -> Any:
    """Returns the input embedding module."""
    return network.get_input_embeddings()


def head_of(network: Any) -> Any:
    """Returns the linear module from hidden states to logits.

    Raises:
        ConfigError: if the network has none, so that it is no causal language model.
    """
    head = network.get_output_embeddings()
    if head is None:
        raise ConfigError(f"{type(network).__name__} has no language-model head; expected a causal language model")
    return head


def is_tied(network: Any) -> bool:
    """Returns whether the head shares the input embedding's weights."""
    return head_of(network).weight is embedding_of(network).weight


@dataclass(frozen=True)
class HeadRule:
    """What an architecture does to the head's product: softcap(scale * W h)."""

    scale: float = 1.0
    """Factor on every logit (Cohere, Granite)."""
    softcap: float | None = None
    """Bound c of c * tanh(logit / c) (Gemma 2), or None."""

    def apply(self, product: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
        """Returns the logits of the head's products; element by element, so any subset of rows is right."""
        logits = product if self.scale == 1.0 else product * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def head_rule(config: Any) -> HeadRule:
    """Returns the rule that a network's config asks for."""
    text = config.get_text_config()
    scale = (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
    return HeadRule(float(scale), getattr(text, "final_logit_softcapping", None))


@dataclass(frozen=True)
class AttentionWindow:
    """Layers that see only keys fewer than ``size`` positions back."""

    size: int
    """Window in positions; a token itself counts as one."""
    mixed: bool
    """Whether other layers see everything, so that the network takes one mask for each kind of layer."""

    def masks(
        self,
        mask: Bool[Tensor, "#B 1 T S"],
        query_positions: Int[Tensor, "B T"],
        key_positions: Int[Tensor, "B S"],
    ) -> dict[str, Tensor] | Tensor:
        """Returns the masks that the network takes for ``mask``.

        Distance is counted in positions and not in slots, so that a branch of a tree sees as far as a row of its own.
        """
        distance = query_positions[:, None, :, None] - key_positions[:, None, None, :]
        windowed = mask & (distance < self.size)
        return {_FULL: mask, _SLIDING: windowed} if self.mixed else windowed


def attention_window(config: Any) -> AttentionWindow | None:
    """Returns the window of a network's layers, or None where every layer sees everything.

    Raises:
        ConfigError: if some layers do not attend (Mamba, linear attention) or attend in chunks: no mask can then
            hold the branches of a tree apart.
    """
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if kinds - {_FULL, _SLIDING}:
        other = ", ".join(sorted(kinds - {_FULL, _SLIDING}))
        raise ConfigError(
            f"{text.model_type} has layers of kind {other}; supported are causal language models whose layers are "
            "full or sliding-window attention (Qwen2, Qwen3, Llama, SmolLM, Mistral, Gemma ...)"
        )
    size = getattr(text, "sliding_window", None)
    if size is None or kinds == {_FULL}:
        return None
    return AttentionWindow(int(size), mixed=bool(kinds))
