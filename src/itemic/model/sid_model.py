"""A causal language model that reads and writes semantic IDs: hidden states under any mask, logits of chosen rows.

Training, decoding and serving all go through these two calls, so that logits are computed only where they are
wanted and a tree of continuations is one sequence. Knows nothing of prompts, items or losses.
"""

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.files import atomic_folder, read_json, write_json
from itemic.language.prompts import PromptMode
from itemic.language.spelling import SidTokens, Spelling
from itemic.model.adapters import merge_adapters
from itemic.model.backbone import load_backbone, new_cache, save_network
from itemic.model.parts import attention_window, decoder_of, head_of, head_rule
from itemic.model.precision import PackedHead, Precision, can_pack, check_not_prepared, prepare_network
from itemic.model.trained_rows import TrainedRowsHead

__all__ = ["KeyValueCache", "SidModel"]

_CARD = "itemic.json"


@dataclass
class KeyValueCache:
    """Keys and values of what a model has read, and at which positions; opaque to everyone but SidModel."""

    layers: Any
    """The transformers cache."""
    positions: Int[Tensor, "B S"]
    """Position of every cached token."""


class SidModel:
    """A Hugging Face causal language model with the tokenizer and spelling that its semantic IDs are written in."""

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        spelling: Spelling,
        *,
        prompt_mode: PromptMode,
        prompt_version: str,
        catalog_version: str,
    ) -> None:
        """Checks that the network's hidden states and head give the network's own logits.

        Args:
            network: A ``*ForCausalLM`` of transformers, adapters included.
            tokenizer: Its tokenizer, which knows every token of the spelling as one token.
            spelling: How SIDs are written.
            prompt_mode: ``sid-only`` (no words) or ``chat``.
            prompt_version: Version of the renderer that the model was trained with.
            catalog_version: Version hash of the catalog whose SIDs it speaks.

        Raises:
            ConfigError: if the architecture is not supported.
            CatalogError: if the tokenizer lacks a token of the spelling.
        """
        self.network: Any = network
        self.tokenizer = tokenizer
        self.spelling = spelling
        self.prompt_mode = prompt_mode
        self.prompt_version = prompt_version
        self.catalog_version = catalog_version
        self.sid_tokens = SidTokens.from_tokenizer(tokenizer, spelling)
        self._window = attention_window(self.network.config)
        self._head_rule = head_rule(self.network.config)
        self._packed_head: PackedHead | None = None
        self._check_architecture()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.network.parameters()).device
        return device

    @property
    def vocabulary_size(self) -> int:
        """Rows of the head, those that no token has included."""
        return int(self._head_weight.shape[0])

    def hidden(
        self,
        input_ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "#B 1 T S"],
        position_ids: Int[Tensor, "B T"],
        cache: KeyValueCache | None = None,
        use_cache: bool = False,
    ) -> tuple[Float[Tensor, "B T D"], KeyValueCache | None]:
        """Returns the final-norm hidden states, without touching the head, and the extended cache.

        Gradients flow where the caller records them; dropout acts in the network's training mode only. A token that
        may attend to nothing gets finite hidden states without meaning.

        Args:
            input_ids: Tokens of each row.
            mask: True where a token (T) may attend to a key (S): the cached tokens first, then these; S = cached + T.
                Layers with a sliding window see of these only the keys within it, by distance in positions.
            position_ids: Position of each token, which need not be its slot.
            cache: What an earlier call returned; it is extended in place.
            use_cache: Whether to begin a cache where none is given.

        Returns:
            The hidden states and the cache, None where there is none.
        """
        if cache is None and use_cache:
            cache = KeyValueCache(new_cache(), position_ids[:, :0])
        positions = position_ids if cache is None else torch.cat([cache.positions, position_ids], dim=1)
        output = decoder_of(self.network)(
            input_ids=input_ids,
            attention_mask=self._network_masks(mask, position_ids, positions),
            position_ids=position_ids,
            past_key_values=None if cache is None else cache.layers,
            use_cache=cache is not None,
        )
        if cache is not None:
            cache.positions = positions
        return output.last_hidden_state, cache

    def repeat_cache(self, cache: KeyValueCache, num_rows: int) -> KeyValueCache:
        """Returns a new cache of ``num_rows`` rows that each hold what the one row of ``cache`` holds."""
        layers = new_cache()
        for index, layer in enumerate(cache.layers.layers):
            layers.update(*(each.expand(num_rows, -1, -1, -1) for each in (layer.keys, layer.values)), index)
        return KeyValueCache(layers, cache.positions.expand(num_rows, -1))

    def logits(
        self, hidden: Float[Tensor, "*b D"], token_ids: Int[Tensor, "n"] | slice | None = None
    ) -> Float[Tensor, "*b n"]:
        """Returns the logits of some tokens, or of the whole vocabulary, equal to the network's own.

        Args:
            hidden: Final-norm hidden states.
            token_ids: Rows of the head to use, in this order: ids, or a slice from a start to a stop, whose rows are
                not copied; None for all of them.
        """
        head = head_of(self.network)
        # A prepared model's layers may compute in bfloat16 below a head in float32.
        hidden = hidden.to(self._head_weight.dtype)
        if token_ids is None:
            return self._head_rule.apply(head(hidden))
        if isinstance(token_ids, slice) and self._packed_head is not None:
            return self._head_rule.apply(self._packed_head(hidden, token_ids))
        rows = head.rows(token_ids) if isinstance(head, TrainedRowsHead) else head.weight[token_ids]
        bias = None if head.bias is None else head.bias[token_ids]
        return self._head_rule.apply(nn.functional.linear(hidden, rows, bias))

    @property
    def num_parameters(self) -> int:
        """Numbers of the network, tied ones once."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def prepare_for_inference(self, precision: Precision = "auto", *, compile: bool = False) -> str:
        """Returns the number format that the layers now compute in; the model can be trained and saved no more.

        See :func:`itemic.model.precision.prepare_network`. On a CPU the head is packed beside itself as far as sums
        over the whole vocabulary ask for it (``full``): another 4 bytes a weight.

        Args:
            precision: ``auto``, ``float32``, ``bfloat16`` or ``int8``.
            compile: Whether ``torch.compile`` fuses the layers' operations.

        Raises:
            ConfigError: if the format does not exist, device or architecture cannot compute in it, the model was
                not loaded in float32, or it was prepared before.
        """
        taken = prepare_network(self.network, precision, compile=compile)
        head = head_of(self.network)
        if head.weight.device.type == "cpu" and type(head) is nn.Linear and can_pack(torch.float32):
            self._packed_head = PackedHead(head)
        return taken

    def save(self, folder: Path) -> None:
        """Writes a Hugging Face folder that plain transformers loads, and ``itemic.json``, atomically.

        Adapters are folded in; the network itself keeps them.

        Raises:
            ConfigError: if the model was prepared for inference.
        """
        check_not_prepared(self.network)
        card = {
            "itemic": importlib.metadata.version("itemic"),
            "catalog_version": self.catalog_version,
            "spelling": {"style": self.spelling.style, "codebook_sizes": list(self.spelling.codebook_sizes)},
            "prompt_mode": self.prompt_mode,
            "prompt_version": self.prompt_version,
        }
        with atomic_folder(folder) as temporary:
            save_network(merge_adapters(self.network), self.tokenizer, temporary)
            write_json(temporary / _CARD, card)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> "SidModel":
        """Returns the model that :meth:`save` wrote, in evaluation mode.

        Args:
            folder: Where it is.
            device: Where to put the weights.
            dtype: Number format to compute in; CPUs are fastest in float32.

        Raises:
            ArtifactError: if the folder or its ``itemic.json`` is missing or damaged.
            ConfigError: if the network beside it cannot be loaded.
        """
        path = folder / _CARD
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; expected a model folder that itemic sft wrote")
        spelling, facts = _read_card(path)
        network, tokenizer = load_backbone(str(folder), device=device, dtype=dtype)
        return cls(network, tokenizer, spelling, **facts)

    @property
    def _head_weight(self) -> Tensor:
        head = head_of(self.network)
        weight: Tensor = (head.base if isinstance(head, TrainedRowsHead) else head).weight
        return weight

    def _network_masks(
        self, mask: Bool[Tensor, "#B 1 T S"], queries: Int[Tensor, "B T"], keys: Int[Tensor, "B S"]
    ) -> dict[str, Tensor] | Tensor:
        masks = mask if self._window is None else self._window.masks(mask, queries, keys)
        if isinstance(masks, dict):
            return {kind: self._in_kernel_format(each) for kind, each in masks.items()}
        return self._in_kernel_format(masks)

    def _in_kernel_format(self, mask: Bool[Tensor, "#B 1 T S"]) -> Tensor:
        """Returns the mask as the attention kernel wants it: eager adds it to the scores, SDPA takes booleans."""
        kernel = self.network.config._attn_implementation
        if kernel == "sdpa":
            return mask
        if kernel == "eager":
            dtype = self.network.dtype
            return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
        raise ConfigError(f"attention {kernel!r} takes no mask of our own; load the network with sdpa or eager")

    def _check_architecture(self) -> None:
        """Compares three tokens' logits with the network's own, so that no architecture is silently misread."""
        positions = torch.arange(3, device=self.device)[None]
        input_ids = positions.remainder(self.network.config.get_text_config().vocab_size)
        mask = torch.ones(1, 1, 3, 3, dtype=torch.bool, device=self.device).tril()
        with torch.no_grad(), _evaluating(self.network):
            expected = self.network(input_ids=input_ids, use_cache=False).logits.float()
            found = self.logits(self.hidden(input_ids, mask, positions)[0]).float()
        scale = expected.abs().max().clamp(min=1e-6)
        if expected.shape != found.shape or (expected - found).abs().max() > 0.02 * scale:
            raise ConfigError(
                f"{type(self.network).__name__}: its logits are not its head times its hidden states as itemic "
                "computes them; this architecture is not supported"
            )


def _read_card(path: Path) -> tuple[Spelling, dict[str, Any]]:
    """Returns the spelling and the other facts that ``itemic.json`` states."""
    card = read_json(path)
    try:
        spelling = Spelling.of(card["spelling"]["style"], card["spelling"]["codebook_sizes"])
        facts = {key: card[key] for key in ("prompt_mode", "prompt_version", "catalog_version")}
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: missing or damaged entry {error}; train the model again") from None
    if facts["prompt_mode"] not in get_args(PromptMode):
        raise ArtifactError(f"{path}: prompt_mode {facts['prompt_mode']!r}, expected sid-only or chat")
    return spelling, facts


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Puts a network in evaluation mode for a while, and each of its modules back in its own."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
