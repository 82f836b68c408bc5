"""A toy shop: every user walks from item to item by one rule, so the next item is a function of the last."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from itemic.cli.main import main

NUM_ITEMS = 20
NUM_USERS = 140


def next_item(item: int) -> int:
    """A walk through all items: 13 and 20 share no factor."""
    return (item + 13) % NUM_ITEMS


def write_shop(folder: Path) -> None:
    log = ["user,item,time"]
    for user in range(NUM_USERS):
        item = user % NUM_ITEMS
        for place in range(5 + user // NUM_ITEMS):
            log.append(f"u{user},i{item},{1_600_000_000 + 60 * place + user}")
            item = next_item(item)
    (folder / "log.csv").write_text("\n".join(log) + "\n")
    shelf = ["item,name,text"] + [f'i{item},"Thing {item}","word{item} word{item % 3}"' for item in range(NUM_ITEMS)]
    (folder / "items.csv").write_text("\n".join(shelf) + "\n")


def write_encoder(folder: Path) -> None:
    """A random BERT of two layers: different texts get different vectors, which is all that is needed."""
    words = ["[PAD]", "[UNK]", "Thing", *(f"word{n}" for n in range(NUM_ITEMS)), *map(str, range(NUM_ITEMS))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = BertConfig(
            vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        )
        BertModel(shape).save_pretrained(folder)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    write_encoder(folder / "encoder")
    return folder


@pytest.fixture(scope="session")
def write_recipe(shop: Path) -> Callable[..., Path]:
    """Writes a recipe for the shop into a folder; keyword arguments replace settings of ``sft.training``."""

    def write(folder: Path, **training: object) -> Path:
        values = {
            "run": str(folder / "run"),
            "seed": 4,
            "prepare": {
                "source": {
                    "format": "table",
                    "interactions": str(shop / "log.csv"),
                    "items": str(shop / "items.csv"),
                    "interaction_columns": {"user_id": "user", "item_id": "item", "timestamp": "time"},
                    "item_columns": {"item_id": "item", "title": "name", "description": "text"},
                },
                "max_history": 5,
            },
            "embed": {"encoder": str(shop / "encoder"), "pooling": "mean"},
            "tokenize": {"codebook_sizes": [4, 4, 4]},
            "sft": {
                "decoder": {
                    "hidden_size": 48,
                    "num_layers": 2,
                    "num_heads": 2,
                    "intermediate_size": 96,
                    "dropout": 0.0,
                },
                "max_history": 5,
                "stride": 5,
                "row_tokens": 64,
                "rows_per_batch": 2,
                "training": {
                    "epochs": 30,
                    "learning_rate": 5e-3,
                    "weight_decay": 0.0,
                    "device": "cpu",
                    "log_every_steps": 1,
                    **training,
                },
            },
            "baselines": ["popularity", "repeat-last", "covisit-knn"],
            "evaluate": {
                "cutoffs": [1, 5, 10],
                "num_bootstrap": 50,
                "num_beams": 20,
                "exclude_history": False,
            },
        }
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def recipe(write_recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes it into the test's own folder."""
    return functools.partial(write_recipe, tmp_path)


@pytest.fixture(scope="module")
def shop_run(shop: Path, tmp_path_factory: pytest.TempPathFactory, write_recipe: Callable[..., Path]) -> Path:
    """A run of the shop with a model of one epoch; a module's own, so its tests may write into it."""
    folder = tmp_path_factory.mktemp("shop-run")
    main(["run", str(write_recipe(folder, epochs=1)), "--stages", "prepare,embed,tokenize,sft"])
    return folder / "run"
