import numpy as np
import pytest
import torch

from itemic.core.errors import ConfigError
from itemic.embed.encoder import EncoderOptions, TextEncoder
from itemic.embed.hugging_face import HuggingFaceEncoder
from itemic.embed.sentence_transformer import SentenceTransformerEncoder

TEXTS = ["blue pump", "red steel bolt nut of the valve red steel bolt", "seal"]
CPU = torch.device("cpu")


def make_encoder(folder, **options):
    return SentenceTransformerEncoder("tiny", folder, EncoderOptions(device=CPU, **options))


@pytest.mark.parametrize("options", [{}, {"instruction": "a red "}, {"max_length": 5}], ids=["", "instruction", "cut"])
def test_both_backends_give_the_same_vectors(sentence_bert, options):
    ours = HuggingFaceEncoder("tiny", sentence_bert, EncoderOptions(device=CPU, **options), pooling="mean")
    theirs = make_encoder(sentence_bert, **options)
    assert isinstance(theirs, TextEncoder)
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)


def test_vectors_are_normalised_where_the_model_does_not(plain_bert):
    raw = make_encoder(plain_bert, normalize=False).encode(TEXTS)
    unit = make_encoder(plain_bert).encode(TEXTS)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-5)


def test_longer_texts_than_the_model_reads_are_refused(sentence_bert):
    with pytest.raises(ConfigError, match="max_length 33: encoder 'tiny' reads at most 32 tokens"):
        make_encoder(sentence_bert, max_length=33)


def test_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="encoder 'tiny': sentence-transformers cannot load"):
        make_encoder(tmp_path)
