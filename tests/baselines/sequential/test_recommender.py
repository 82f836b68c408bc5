"""What holds for every sequential baseline: a rule learned, seeds, files, long and empty histories."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from itemic.baselines.sequential import Caser, GRU4Rec
from itemic.core.errors import ArtifactError, ConfigError, DataError
from itemic.evaluate import EvaluateConfig, evaluate_recommender


@pytest.fixture
def fitted(model_type, settings, dataset):
    return model_type.fit(dataset, seed=0, config=settings(max_epochs=1))


def accuracy(model, dataset):
    metrics = evaluate_recommender(model, dataset, EvaluateConfig(cutoffs=(1,), num_bootstrap=2), seed=0).metrics
    return metrics["HR@1"]["value"]


def without_valid(dataset):
    """All epochs are trained: a perfect list on valid does not yet make one on test."""
    return replace(dataset, valid=dataset.valid.clear())


def test_a_rule_is_learned_to_the_letter(model_type, settings, dataset):
    config = settings(max_epochs=40, learning_rate=1e-2, dropout=0.0)
    assert accuracy(model_type.fit(without_valid(dataset), seed=0, config=config), dataset) == 1


@pytest.mark.parametrize("model_type", [GRU4Rec, Caser], indirect=True)
def test_a_rule_is_learned_with_the_whole_catalogue_in_the_loss(model_type, settings, dataset):
    config = settings(max_epochs=40, learning_rate=1e-2, dropout=0.0, loss="softmax")
    assert accuracy(model_type.fit(without_valid(dataset), seed=0, config=config), dataset) == 1


def test_one_seed_gives_one_model_and_leaves_the_caller_s_random_state(model_type, settings, dataset):
    config = settings(max_epochs=2)
    torch.manual_seed(5)
    models = [model_type.fit(dataset, seed=seed, config=config) for seed in (0, 0, 1)]
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert drawn == torch.rand(1)
    first, second, third = (model.score([[1, 2, 3]]) for model in models)
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, third)


def test_a_long_history_counts_by_its_end_and_an_empty_one_by_popularity(fitted):
    scores = fitted.score([[1, 2, 3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8], []])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5, atol=1e-6)
    assert np.argsort(-scores[2], kind="stable").tolist() == np.argsort(-fitted.counts, kind="stable").tolist()


def test_a_history_is_scored_alike_alone_and_among_longer_ones(fitted):
    histories = [[1], [2, 3, 4], [5, 6, 7, 8, 9, 10]]
    together = fitted.score(histories)
    for row, history in enumerate(histories):
        np.testing.assert_allclose(fitted.score([history])[0], together[row], rtol=1e-5, atol=1e-6)


def test_a_stored_model_is_the_same_model(model_type, fitted, tmp_path):
    path, histories = tmp_path / "model.safetensors", [[1, 2, 3, 4, 5, 6, 7, 8], [], [3]]
    fitted.save(path, "ring")
    restored = model_type.load(path, "ring", device="cpu")
    np.testing.assert_array_equal(restored.score(histories), fitted.score(histories))
    with pytest.raises(ArtifactError, match="fitted to other data or with other settings"):
        model_type.load(path, "line", device="cpu")
    with pytest.raises(ArtifactError, match="no such file"):
        model_type.load(tmp_path / "nothing", device="cpu")


def test_a_few_items_are_scored_as_among_all(fitted):
    histories, items = [[1, 2, 3, 4, 5, 6, 7, 8], [3]], torch.tensor([[4, 9], [0, 0]])
    expected = np.take_along_axis(fitted.score(histories), items.numpy(), axis=1)
    np.testing.assert_allclose(fitted.score_items(histories, items).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_log_without_pairs_is_refused(model_type, settings, make_dataset):
    with pytest.raises(DataError, match="there is no next item to learn from"):
        model_type.fit(make_dataset([[0, 1, 2], [2, 1, 0]], 3), seed=0, config=settings())


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"hidden_size": 0}, "hidden_size must be at least 1, found 0"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"learning_rate": 0.0}, "expected a learning rate above 0"),
    ],
)
def test_settings_without_meaning_are_refused(settings, values, problem):
    with pytest.raises(ConfigError, match=problem):
        settings(**values)
