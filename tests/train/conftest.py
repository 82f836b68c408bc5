"""A toy dataset, its catalog and a small model: enough for every training test."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, Dataset
from itemic.language.prompts import PROMPT_VERSION, Renderer
from itemic.language.spelling import Spelling
from itemic.model.backbone import DecoderConfig, make_decoder, make_sid_tokenizer
from itemic.model.sid_model import SidModel
from itemic.sid.catalog import Catalog

NUM_ITEMS = 12


def ring_dataset(num_users: int = 24, length: int = 7) -> Dataset:
    """Users walk round a ring of items: the next item is the last one plus one."""
    examples, interactions = [], []
    for user in range(num_users):
        items = [(user + step) % NUM_ITEMS for step in range(length)]
        for place, item in enumerate(items):
            split = "test" if place == length - 1 else "valid" if place == length - 2 else "train"
            interactions.append((str(user), item, place, None, split))
            if place:
                examples.append((split, len(examples), str(user), items[:place], item, place))
    tables = {
        split: pl.DataFrame([row[1:] for row in examples if row[0] == split], schema=EXAMPLE_SCHEMA, orient="row")
        for split in ("train", "valid", "test")
    }
    items = pl.DataFrame(
        {
            "item_index": range(NUM_ITEMS),
            "item_id": [f"i{item}" for item in range(NUM_ITEMS)],
            "title": [f"Title {item}" for item in range(NUM_ITEMS)],
            "description": [f"What item {item} is" for item in range(NUM_ITEMS)],
        }
    )
    log = pl.DataFrame(interactions, schema=INTERACTION_SCHEMA, orient="row")
    return Dataset(items=items, interactions=log, **tables, info={"keeps_repeats": True})


@pytest.fixture
def dataset() -> Dataset:
    return ring_dataset()


@pytest.fixture
def catalog() -> Catalog:
    codes = np.array([[item // 4, item % 4, (item * 7) % 4] for item in range(NUM_ITEMS)])
    return Catalog(
        codes=codes, item_ids=[f"i{item}" for item in range(NUM_ITEMS)], codebook_sizes=(4, 4, 4), spelling="plain"
    )


@pytest.fixture
def model(catalog: Catalog) -> SidModel:
    spelling = Spelling.of(catalog.spelling, catalog.codebook_sizes)
    tokenizer = make_sid_tokenizer(spelling)
    config = DecoderConfig(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, dropout=0.0)
    network = make_decoder(config, len(tokenizer), np.random.default_rng(0))
    return SidModel(
        network,
        tokenizer,
        spelling,
        prompt_mode="sid-only",
        prompt_version=PROMPT_VERSION,
        catalog_version=catalog.version,
    )


@pytest.fixture
def renderer(model: SidModel, catalog: Catalog) -> Renderer:
    return Renderer(model.tokenizer, model.spelling, catalog.codes, "sid-only")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model that knows nothing."""
    folder = tmp_path_factory.mktemp("backbone")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(shape).save_pretrained(folder)
    return folder
