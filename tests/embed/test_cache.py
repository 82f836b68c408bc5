import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import ArtifactError
from itemic.core.files import text_hash
from itemic.embed.cache import EmbeddingCache

batches_of_texts = st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=4, unique=True), max_size=4)


def vector_of(text):
    return np.array([len(text), sum(map(ord, text))], dtype=np.float32)


@settings(max_examples=15)
@given(batches_of_texts, st.lists(st.text(max_size=3)))
def test_what_was_written_is_found_and_nothing_else(tmp_path_factory, batches, asked):
    cache = EmbeddingCache(tmp_path_factory.mktemp("cache"))
    for batch in batches:
        cache.write({text_hash(text): vector_of(text) for text in batch})
    written = {text for batch in batches for text in batch}
    found = cache.read({text_hash(text) for text in asked})
    assert found.keys() == {text_hash(text) for text in asked if text in written}
    for text in written & set(asked):
        np.testing.assert_array_equal(found[text_hash(text)], vector_of(text))


def test_cache_that_does_not_exist_is_empty(tmp_path):
    assert EmbeddingCache(tmp_path / "none").read([text_hash("a")]) == {}


def test_damaged_file_is_named(tmp_path):
    (tmp_path / "half.safetensors").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"half.safetensors: damaged .* remove this file"):
        EmbeddingCache(tmp_path).read([text_hash("a")])
