"""The dense head: it learns a linear map that is there, scores as its formula says, is bound to its model."""

import numpy as np
import pytest

from itemic.core.errors import ArtifactError, DataError
from itemic.hybrid.dense_head import DenseHead, fit_head

HISTORIES = [[0, 1], [5], [2, 7, 3]]
VECTORS = np.random.default_rng(1).normal(size=(12, 6)).astype(np.float32)


def fit_small(model) -> DenseHead:
    return DenseHead.fit(model, HISTORIES, np.array([4, 5, 6]), VECTORS, np.random.default_rng(0))


def test_a_map_that_is_there_is_found():
    """States are the target's vector turned by one rotation: the head has to turn it back."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=(20, 8)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    target = rng.integers(20, size=400)
    head = fit_head(items[target] @ turn, target, items, rng, num_epochs=60)
    assert ((items[:20] @ turn @ head @ items.T).argmax(axis=1) == np.arange(20)).all()


def test_scores_are_the_formula(language_model):
    model = language_model(0)
    head = fit_small(model)
    centred = VECTORS - VECTORS.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    expected = model.prompt_states(HISTORIES) / head.scale @ head.head @ unit.T
    np.testing.assert_allclose(head.score(HISTORIES), expected, rtol=1e-4, atol=1e-5)
    assert head.score([]).shape == (0, 12)
    assert head.num_parameters == 8 * 6


def test_a_head_is_the_same_after_it_was_kept_and_is_refused_for_another_model(language_model, tmp_path):
    model, path = language_model(0), tmp_path / "head.safetensors"
    head = fit_small(model)
    head.save(path, "this model")
    np.testing.assert_array_equal(
        DenseHead.load(path, "this model", model, VECTORS).score(HISTORIES), head.score(HISTORIES)
    )
    with pytest.raises(ArtifactError, match="fitted to other data"):
        DenseHead.load(path, "another model", model, VECTORS)


def test_two_fits_agree_and_no_example_is_refused(language_model):
    model = language_model(0)
    np.testing.assert_array_equal(fit_small(model).head, fit_small(model).head)
    with pytest.raises(DataError, match="no training examples"):
        DenseHead.fit(model, [], np.zeros(0, dtype=np.int64), VECTORS, np.random.default_rng(0))
