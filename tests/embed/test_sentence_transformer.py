import numpy as np
import pytest
import torch

from itemic.core.errors import ConfigError
from itemic.embed.encoder import TextEncoder
from itemic.embed.hugging_face import HuggingFaceEncoder
from itemic.embed.sentence_transformer import SentenceTransformerEncoder

TEXTS = ["blue pump", "red steel bolt nut of the valve red steel bolt", "seal"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("options", [{}, {"instruction": "a red "}, {"max_length": 5}], ids=["", "instruction", "cut"])
def test_both_backends_give_the_same_vectors(sentence_bert, options):
    ours = HuggingFaceEncoder("tiny", sentence_bert, pooling="mean", device=CPU, **options)
    theirs = SentenceTransformerEncoder("tiny", sentence_bert, device=CPU, **options)
    assert isinstance(theirs, TextEncoder)
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)


def test_vectors_are_normalised_where_the_model_does_not(plain_bert):
    raw = SentenceTransformerEncoder("tiny", plain_bert, normalize=False, device=CPU).encode(TEXTS)
    unit = SentenceTransformerEncoder("tiny", plain_bert, device=CPU).encode(TEXTS)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)


def test_longer_texts_than_the_model_reads_are_refused(sentence_bert):
    with pytest.raises(ConfigError, match="max_length 33: encoder 'tiny' reads at most 32 tokens"):
        SentenceTransformerEncoder("tiny", sentence_bert, max_length=33, device=CPU)


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="encoder 'tiny': sentence-transformers cannot load"):
        SentenceTransformerEncoder("tiny", tmp_path, device=CPU)
