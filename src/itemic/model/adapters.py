"""Training a part of a pretrained network: the new rows alone, or with low-rank adapters; and folding both in.

The one importer of peft, which is optional. Knows no catalog: it is told which rows train.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from itemic.core.errors import ConfigError, MissingDependencyError
from itemic.model.parts import embedding_of, head_of, is_tied
from itemic.model.trained_rows import TrainedRowsEmbedding, TrainedRowsHead

__all__ = ["LoraConfig", "add_lora", "freeze_backbone", "merge_adapters"]

_ADAPTER = "default"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021) beside the linear layers of the decoder."""

    rank: int = 16
    """Rank of each update; 16 as in peft's examples."""
    alpha: float = 32.0
    """The update is scaled by alpha / rank; twice the rank by custom."""
    dropout: float = 0.05
    """Share of the adapter's inputs dropped in training; 0.05 as in the QLoRA paper's small models."""
    target_modules: tuple[str, ...] = ()
    """Names of the linear layers to adapt, ``q_proj`` say; none for every linear layer but the head."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"rank: expected at least 1, found {self.rank}")
        if self.alpha <= 0:
            raise ConfigError(f"alpha: expected more than 0, found {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}: expected at least 0 and below 1")


def freeze_backbone(network: Any, token_ids: Int[np.ndarray, "n"]) -> None:
    """Leaves only the rows of some tokens to train, in the input embedding and in the head.

    Tied tables share one set of trained rows, untied ones have a set each. Every other weight stays bit for bit what
    it is, whatever the optimizer and its weight decay. :func:`merge_adapters` makes a plain network of the result.

    Args:
        network: A causal language model; changed in place.
        token_ids: The rows that train, ``sid_tokens.all_ids`` say.

    Raises:
        ConfigError: if a token has no row or some rows train already.
    """
    _check_rows(network, token_ids)
    embedding, head, tied = embedding_of(network), head_of(network), is_tied(network)
    network.requires_grad_(False)
    ids = torch.from_numpy(np.unique(token_ids)).to(embedding.weight.device)
    new_embedding = TrainedRowsEmbedding(embedding, ids)
    network.set_input_embeddings(new_embedding)
    network.set_output_embeddings(TrainedRowsHead(head, ids, new_embedding.trained if tied else None))
    network.train(network.training)


def add_lora(network: Any, config: LoraConfig, token_ids: Int[np.ndarray, "n"], rng: np.random.Generator) -> None:
    """Leaves low-rank adapters and the rows of some tokens to train; everything else is frozen.

    At first the adapters add nothing, so the network computes what it did. The network keeps its class: peft's layers
    are put inside it.

    Args:
        network: A causal language model; changed in place.
        config: The adapters.
        token_ids: The rows that train.
        rng: For the adapters' first values.

    Raises:
        MissingDependencyError: if peft is not installed.
        ConfigError: if no layer has a name in ``target_modules``.
    """
    try:
        import peft
    except ImportError:
        raise MissingDependencyError.for_extra("peft", "peft", "LoRA") from None
    _check_rows(network, token_ids)
    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules) or "all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        try:
            peft.inject_adapter_in_model(lora, network, adapter_name=_ADAPTER)
        except ValueError as error:
            raise ConfigError(f"LoRA on {type(network).__name__}: {error}") from None
    adapters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    freeze_backbone(network, token_ids)
    for parameter in adapters:
        parameter.requires_grad_(True)


def merge_adapters(network: Any) -> Any:
    """Returns a plain network of the same class and outputs, with trained rows and LoRA updates folded in.

    The adapted network stays usable and the two share every weight that was not adapted; all weights of the result
    may train. A network without adapters is returned as it is.
    """
    adapted = dict(_adapted_modules(network))
    if not adapted:
        return network
    prefixes = tuple(f"{name}." for name in adapted)
    state = {key: value for key, value in network.state_dict().items() if not key.startswith(prefixes)}
    for name, (base, weight) in adapted.items():
        state[f"{name}.weight"] = weight
        if getattr(base, "bias", None) is not None:
            state[f"{name}.bias"] = base.bias.detach()
    with torch.device("meta"):
        plain = type(network)(copy.deepcopy(network.config))
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.generation_config = network.generation_config
    _copy_buffers(network, plain, {name: base for name, (base, _) in adapted.items()})
    return plain.train(network.training)


def _check_rows(network: Any, token_ids: Int[np.ndarray, "n"]) -> None:
    if isinstance(embedding_of(network), TrainedRowsEmbedding):
        raise ConfigError("some rows train already; merge_adapters first")
    num_rows = embedding_of(network).weight.shape[0]
    if len(token_ids) == 0 or token_ids.min() < 0 or token_ids.max() >= num_rows:
        raise ConfigError(f"expected ids of at least one token, each from 0 to {num_rows - 1}")


def _adapted_modules(network: nn.Module) -> Iterator[tuple[str, tuple[Any, Tensor]]]:
    """Yields the name of every adapted module, the plain module inside it, and that one's new weight."""
    for name, module in network.named_modules():
        if isinstance(module, TrainedRowsEmbedding | TrainedRowsHead):
            yield name, (module.base, module.merged_weight())
        elif hasattr(module, "get_delta_weight"):
            base: Any = module.get_base_layer()
            yield name, (base, (base.weight + module.get_delta_weight(_ADAPTER)).detach())


def _copy_buffers(source: nn.Module, target: nn.Module, bases: Mapping[str, nn.Module]) -> None:
    """Copies the buffers that no state dict holds (rotary frequencies), which are still on the meta device."""
    for name, buffer in list(target.named_buffers()):
        if buffer.is_meta:
            owner, _, attribute = name.rpartition(".")
            original = bases[owner] if owner in bases else source.get_submodule(owner)
            target.get_submodule(owner)._buffers[attribute] = original.get_buffer(attribute).clone()
