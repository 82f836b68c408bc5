import shutil

import numpy as np
import polars as pl
import pytest
from safetensors import safe_open

from itemic.core.config import config_from_mapping
from itemic.core.errors import ArtifactError, ConfigError, DataError
from itemic.core.files import text_hash, write_parquet
from itemic.core.run import Run
from itemic.embed import EmbedConfig, embed, embed_texts, load_embeddings
from itemic.embed.cache import EmbeddingCache
from itemic.embed.embed import encode_cached

TEXTS = ["red", "blue pump", "a", "red", "steel bolt of the nut", "seal", "valve"]


class CountingEncoder:
    """Encodes a text as its length and first letter; remembers its batches and can be killed before one."""

    name = "counting"

    def __init__(self, killed_before=None):
        self.batches = []
        self.killed_before = killed_before

    def encode(self, texts):
        if len(self.batches) == self.killed_before:
            raise KeyboardInterrupt
        self.batches.append(list(texts))
        return np.array([[len(text), ord(text[0])] for text in texts], dtype=np.float32)


def expected(texts):
    return [[len(text), ord(text[0])] for text in texts]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ITEMIC_CACHE", str(tmp_path / "cache"))


def make_run(folder, titles):
    run = Run(folder)
    ids = [f"id {row}" for row in range(len(titles))]
    items = pl.DataFrame({"item_index": range(len(titles)), "item_id": ids, "title": titles, "description": ""})
    write_parquet(run.path("dataset") / "items.parquet", items)
    return run


def test_batches_go_from_long_to_short_and_rows_stay_in_order(tmp_path):
    encoder = CountingEncoder()
    vectors = encode_cached(TEXTS, lambda: encoder, EmbeddingCache(tmp_path), batch_size=2)
    assert vectors.tolist() == expected(TEXTS)
    lengths = [len(text) for batch in encoder.batches for text in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(batch) for batch in encoder.batches] == [2, 2, 2]


def test_only_new_texts_are_encoded(tmp_path):
    cache = EmbeddingCache(tmp_path)
    encode_cached(TEXTS, CountingEncoder, cache, batch_size=2)
    encoder = CountingEncoder()
    vectors = encode_cached([*TEXTS, "new"], lambda: encoder, cache, batch_size=2)
    assert encoder.batches == [["new"]]
    assert vectors.tolist() == expected([*TEXTS, "new"])


def test_encoder_is_not_even_loaded_for_known_texts(tmp_path):
    cache = EmbeddingCache(tmp_path)
    encode_cached(TEXTS, CountingEncoder, cache, batch_size=2)

    def load():
        raise AssertionError("loaded")

    assert encode_cached(TEXTS[::-1], load, cache, batch_size=2).tolist() == expected(TEXTS[::-1])


def test_killed_run_goes_on_where_it_was(tmp_path):
    texts = [chr(ord("a") + row) * (row + 1) for row in range(20)]
    cache = EmbeddingCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        encode_cached(texts, lambda: CountingEncoder(killed_before=9), cache, batch_size=1)
    encoder = CountingEncoder()
    assert encode_cached(texts, lambda: encoder, cache, batch_size=1).tolist() == expected(texts)
    # Eight batches make a file; the ninth was lost.
    assert len(encoder.batches) == 12


def test_stage_writes_one_row_an_item_and_says_what_made_it(tmp_path, sentence_bert):
    run = make_run(tmp_path / "run", TEXTS)
    result = embed(EmbedConfig(encoder=str(sentence_bert)), run, seed=0)
    vectors = load_embeddings(run.path("embeddings.safetensors"))
    assert vectors.shape == (7, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[0], vectors[3])
    assert result.metrics == {"num_items": 7, "width": 16, "num_distinct_texts": 6}
    with safe_open(run.path("embeddings.safetensors"), framework="np") as stored:
        metadata = stored.metadata()
    assert metadata["encoder"] == str(sentence_bert)
    assert metadata["text_hash"] == text_hash(*TEXTS)
    assert metadata["item_hash"] == text_hash(*(f"id {row}" for row in range(7)))
    assert embed(EmbedConfig(encoder=str(sentence_bert)), run, seed=1).skipped


def test_every_option_that_shapes_a_vector_has_its_own_cache(sentence_bert):
    config = {"encoder": str(sentence_bert)}
    variants = [
        {},
        {"pooling": "cls"},
        {"pooling": "last"},
        {"instruction": "a red "},
        {"normalize": False},
        {"max_length": 4},
        {"dtype": "bfloat16"},
    ]
    vectors = [embed_texts(TEXTS, EmbedConfig(**config | variant)) for variant in variants]
    for row, one in enumerate(vectors):
        for other in vectors[:row]:
            assert not np.array_equal(one, other)
    np.testing.assert_array_equal(vectors[0], embed_texts(TEXTS, EmbedConfig(**config)))


def test_backends_agree_on_what_the_model_states(sentence_bert):
    ours = embed_texts(TEXTS, EmbedConfig(encoder=str(sentence_bert)))
    theirs = embed_texts(TEXTS, EmbedConfig(encoder=str(sentence_bert), backend="sentence-transformers"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_changed_model_files_are_another_encoder(tmp_path, plain_bert, sentence_bert):
    folder = tmp_path / "model"
    shutil.copytree(plain_bert, folder)
    config = EmbedConfig(encoder=str(folder), pooling="mean")
    before = embed_texts(["red steel bolt nut of the valve"], config)
    shutil.copy(sentence_bert / "sentence_bert_config.json", folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    assert not np.array_equal(before, embed_texts(["red steel bolt nut of the valve"], config))


def test_missing_or_damaged_artefacts_name_the_stage_to_run(tmp_path):
    with pytest.raises(ArtifactError, match="run itemic prepare first"):
        embed(EmbedConfig(), Run(tmp_path), seed=0)
    with pytest.raises(ArtifactError, match="run itemic embed"):
        load_embeddings(tmp_path / "none.safetensors")
    (tmp_path / "half.safetensors").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"damaged .* run itemic embed again"):
        load_embeddings(tmp_path / "half.safetensors")


def test_items_without_text_stop_the_stage(tmp_path, sentence_bert):
    run = make_run(tmp_path / "run", ["red", ""])
    with pytest.raises(DataError, match="item ids id 1"):
        embed(EmbedConfig(encoder=str(sentence_bert)), run, seed=0)
    assert not run.path("embeddings.safetensors").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fields": []}, "at least one column"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"max_length": -1}, "max_length -1"),
        ({"backend": "sentence-transformers", "pooling": "mean"}, "pools as the model's files say"),
        ({"pooling": "max"}, "pooling"),
    ],
)
def test_config_refuses_what_cannot_be_honoured(values, message):
    with pytest.raises(ConfigError, match=message):
        config_from_mapping(EmbedConfig, values)
