"""A chat model of bytes that thinks before it answers, from titles to titles."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, ITEM_SCHEMA, Dataset
from itemic.core.errors import ConfigError
from itemic.decode import LanguageModelRecommender, ThinkConfig
from itemic.inference import TrainedRun
from itemic.language import Renderer, Spelling
from itemic.model import DecoderConfig, SidModel, make_decoder
from itemic.sid import Catalog
from itemic.user_table import recommend_table

CODES = np.array([[0, 1], [0, 2], [1, 1], [2, 0], [2, 3], [3, 3]])
SPELLING = Spelling.of("wrapped", (4, 4))
TITLES = ["Alien", "Heat", "Up", "Big", "Jaws", "Seven"]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    fast.add_tokens([AddedToken(token, normalized=False) for token in SPELLING.tokens()])
    return fast


@pytest.fixture(scope="module")
def trained() -> TrainedRun:
    tokenizer = byte_tokenizer()
    catalog = Catalog(CODES, [f"i{row}" for row in range(6)], (4, 4), spelling="wrapped")
    shape = DecoderConfig(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=48)
    network = make_decoder(shape, len(tokenizer), np.random.default_rng(0)).eval()
    facts = {"prompt_mode": "chat", "prompt_version": "", "catalog_version": catalog.version}
    model = SidModel(network, tokenizer, SPELLING, **facts)
    renderer = Renderer(tokenizer, SPELLING, CODES, "chat")
    items = [(row, f"i{row}", title, "") for row, title in enumerate(TITLES)]
    examples = {split: pl.DataFrame([], EXAMPLE_SCHEMA, orient="row") for split in ("train", "valid", "test")}
    dataset = Dataset(
        items=pl.DataFrame(items, ITEM_SCHEMA, orient="row"),
        interactions=pl.DataFrame([], INTERACTION_SCHEMA, orient="row"),
        info={"keeps_repeats": False},
        **examples,
    )
    recommender = LanguageModelRecommender(model, catalog, renderer.next_item_prompt, items=dataset.items)
    return TrainedRun(dataset, catalog, renderer, recommender, {"model": "m"}, max_history=2)


def test_an_answer_holds_the_thought_before_it(trained) -> None:
    thinking = trained.after_thinking(ThinkConfig(max_new_tokens=12, temperature=1.0, seed=3))
    answer = thinking.recommend(["Heat", "Up"], 4, exclude=["Big"])
    assert {item.title for item in answer} <= {"Alien", "Jaws", "Seven"}
    assert len(answer) == answer.num_allowed == 3
    assert answer.thought
    assert not SPELLING.read(answer.thought)
    assert thinking.recommend(["Heat", "Up"], 4, exclude=["Big"]).thought == answer.thought
    assert thinking.identity != trained.identity
    assert trained.recommend(["Heat"], 1).thought is None


def test_a_thought_follows_the_last_items_only(trained) -> None:
    thinking = trained.after_thinking(ThinkConfig(max_new_tokens=8, temperature=0.0))
    whole = replace(trained, max_history=None).after_thinking(ThinkConfig(max_new_tokens=8, temperature=0.0))
    lists = [run.recommend_many([[3, 4, 1, 2]], 2).score.tolist() for run in (thinking, whole)]
    assert lists[0] != lists[1]
    short = whole.recommender.recommend([[1, 2]], 2, exclude=[[3, 4, 1, 2]])
    np.testing.assert_allclose(lists[0], short.score, rtol=0, atol=1e-5)


def test_a_model_without_words_is_refused(trained) -> None:
    wordless = replace(trained, renderer=Renderer(trained.renderer.tokenizer, SPELLING, CODES, "chat"))
    wordless.renderer.mode = "sid-only"
    with pytest.raises(ConfigError, match="a thought needs words"):
        wordless.after_thinking()


def test_a_table_of_thoughts_is_the_same_whatever_the_batches_and_chunks(trained, tmp_path) -> None:
    users = pl.DataFrame({"user_id": range(11), "history": [[f"i{row}" for row in range(n % 4)] for n in range(11)]})
    users.write_parquet(tmp_path / "users.parquet")
    tables = []
    for batch_size, chunk_rows in ((16, 20), (1, 20), (16, 3)):
        thinking = trained.after_thinking(ThinkConfig(max_new_tokens=6, temperature=3.0, seed=1))
        thinking.recommender._batch_size = batch_size
        target = tmp_path / f"{batch_size}-{chunk_rows}.parquet"
        recommend_table(thinking, tmp_path / "users.parquet", target, k=3, chunk_rows=chunk_rows)
        tables.append(pl.read_parquet(target))
    for table in tables[1:]:
        np.testing.assert_allclose(table["score"], tables[0]["score"], rtol=0, atol=1e-4)
        assert table["item_id"].to_list() == tables[0]["item_id"].to_list()
    alike = tables[0].filter(pl.col("user_id") % 4 == 0).group_by("user_id", maintain_order=True).agg("score")
    assert alike["score"].list.first().n_unique() > 1, "users with the same history draw differently"
