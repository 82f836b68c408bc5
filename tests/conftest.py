"""Shape checks for every annotated function while tests run; nothing is timed. Tiny models and data for many tests."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import settings
from jaxtyping import Bool, Float, Int, install_import_hook
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

install_import_hook("itemic", "beartype.beartype")

# Modules are checked only if they are imported after the hook is there.
from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, ITEM_SCHEMA, Dataset  # noqa: E402
from itemic.language.spelling import SidTokens, Spelling  # noqa: E402
from itemic.model import DecoderConfig, SidModel, make_decoder, make_sid_tokenizer  # noqa: E402
from itemic.sid import Catalog  # noqa: E402

_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_byte_tokenizer(spelling: Spelling, template: str | None = _TEMPLATE) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.add_tokens([AddedToken(token, normalized=False) for token in spelling.tokens()])
    fast.chat_template = template
    return fast


class FakePolicy:
    """Float64 attention that averages what a token may see, weighted by distance in positions.

    A wrong mask, position or cache order changes its every logit, so equal lists mean that all three are right.
    """

    def __init__(self, codebook_sizes: Sequence[int], seed: int = 0, width: int = 8, catalog_version: str = "") -> None:
        rng = np.random.default_rng(seed)
        spelling = Spelling(style="plain", codebook_sizes=tuple(codebook_sizes))
        # Token ids in no order at all, between words, as a tokenizer may give them.
        ids = rng.permutation(sum(codebook_sizes) + 20)
        bounds = np.cumsum([0, *codebook_sizes])
        levels = [ids[a:b] for a, b in pairwise(bounds)]
        self.sid_tokens = SidTokens(spelling, tuple(levels), (), ())
        self.device = torch.device("cpu")
        self.catalog_version = catalog_version
        self.embedding = torch.from_numpy(rng.normal(size=(len(ids), width)))
        self.head = torch.from_numpy(rng.normal(size=(len(ids), width)) * 3)
        self.vocabulary_size = len(ids)
        self.num_prompt_tokens_read = 0

    def hidden(
        self,
        input_ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B 1 T S"],
        position_ids: Int[Tensor, "B T"],
        cache: Any = None,
        *,
        use_cache: bool = False,
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        if cache is None:
            self.num_prompt_tokens_read += input_ids.numel()
        values, positions = self.embedding[input_ids], position_ids
        if cache is not None:
            values, positions = torch.cat([cache[0], values], 1), torch.cat([cache[1], positions], 1)
        distance = (position_ids[:, :, None] - positions[:, None, :]).double()
        weight = torch.where(mask[:, 0], 0.8**distance, 0.0)
        states = torch.tanh(weight @ values + self.embedding[input_ids] * 0.5)
        return states, (values, positions) if use_cache else None

    def repeat_cache(self, cache: Any, num_rows: int) -> Any:
        return tuple(each.expand(num_rows, *each.shape[1:]) for each in cache)

    def logits(
        self, hidden: Float[Tensor, "*batch D"], token_ids: Int[Tensor, "n"] | slice | None = None
    ) -> Float[Tensor, "*batch n"]:
        return hidden @ (self.head if token_ids is None else self.head[token_ids]).T


class UniformPolicy(FakePolicy):
    """Every token is equally likely after everything."""

    def logits(
        self, hidden: Float[Tensor, "*batch D"], token_ids: Int[Tensor, "n"] | slice | None = None
    ) -> Float[Tensor, "*batch n"]:
        rows = self.head if token_ids is None else self.head[token_ids]
        return torch.zeros(*hidden.shape[:-1], len(rows), dtype=hidden.dtype)


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """A real Hugging Face tokenizer, small enough to read: words are bytes, and there is a chat template."""
    return make_byte_tokenizer


@pytest.fixture(scope="session")
def fake_policy() -> Callable[..., FakePolicy]:
    return FakePolicy


@pytest.fixture(scope="session")
def uniform_policy() -> Callable[..., FakePolicy]:
    return UniformPolicy


@pytest.fixture(scope="session")
def make_catalog() -> Callable[..., Catalog]:
    def make(codes: Any, sizes: Sequence[int], **options: Any) -> Catalog:
        codes = np.asarray(codes)
        return Catalog(codes, [f"i{row}" for row in range(len(codes))], sizes, **options)

    return make


def make_gemma2(vocab_size: int) -> torch.nn.Module:
    """One layer with a window shorter than the prompts and one without, logits bounded by a soft cap."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=48,
        sliding_window=6,
        attn_implementation="eager",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    return Gemma2ForCausalLM(config)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., SidModel]:
    """A tiny network over SID tokens whose logits are far apart: ``qwen3``, or ``gemma2`` for windows and soft caps."""

    def make(kind: str, sizes: Sequence[int], style: str = "wrapped") -> SidModel:
        spelling = Spelling.of(style, sizes)
        tokenizer = make_sid_tokenizer(spelling)
        if kind == "qwen3":
            shape = DecoderConfig(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
            network = make_decoder(shape, len(tokenizer), np.random.default_rng(0))
        else:
            network = make_gemma2(len(tokenizer))
        with torch.no_grad():
            network.get_input_embeddings().weight.normal_(generator=torch.Generator().manual_seed(0))
        facts = {"prompt_mode": "sid-only", "prompt_version": "1", "catalog_version": ""}
        return SidModel(network.eval(), tokenizer, spelling, **facts)

    return make


@pytest.fixture
def make_dataset() -> Callable[..., Dataset]:
    def make(sequences: Sequence[Sequence[int]], num_items: int) -> Dataset:
        """Leave-one-out: the last item of each sequence is test, the one before valid, the others are train."""
        log, examples = [], {"train": [], "valid": [], "test": []}
        for user, items in enumerate(sequences):
            for position, item in enumerate(items):
                split = {1: "test", 2: "valid"}.get(len(items) - position, "train")
                log.append((f"u{user}", item, position, "view", split))
                if position:
                    examples[split].append((len(log), f"u{user}", list(items[:position]), item, position))
        tables = {name: pl.DataFrame(rows, EXAMPLE_SCHEMA, orient="row") for name, rows in examples.items()}
        catalogue = [(index, f"i{index}", f"title {index}", "") for index in range(num_items)]
        return Dataset(
            items=pl.DataFrame(catalogue, ITEM_SCHEMA, orient="row"),
            interactions=pl.DataFrame(log, INTERACTION_SCHEMA, orient="row"),
            info={"keeps_repeats": True},
            **tables,
        )

    return make
