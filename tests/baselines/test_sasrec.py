"""SASRec: causality, learning a known rule, the choice of the epoch, seeds."""

import numpy as np
import pytest
import torch

from itemic.baselines import SASRec, SASRecConfig, sasrec
from itemic.baselines.sasrec_network import SasrecNetwork
from itemic.core.errors import ArtifactError, ConfigError, DataError
from itemic.evaluate import EvaluateConfig, evaluate_recommender, evaluation_set

NUM_ITEMS = 12
SMALL = {"hidden_size": 16, "num_heads": 2, "max_length": 6, "batch_tokens": 64, "warmup_steps": 5}


@pytest.fixture
def dataset(make_dataset):
    """Each item is followed by the next one, the last by the first."""
    return make_dataset([[(user + step) % NUM_ITEMS for step in range(4 + user % 9)] for user in range(40)], NUM_ITEMS)


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = SasrecNetwork(num_items=9, max_length=7, hidden_size=8, num_layers=2, num_heads=2, dropout=0.5).eval()
    torch.nn.init.normal_(network.blocks[0].distance_bias)
    return network


def test_a_state_sees_its_past_and_nothing_later(network):
    items = torch.tensor([[1, 2, 3, 4, 5]])
    states = network(items)
    later_changed, earlier_changed = network(torch.tensor([[1, 2, 3, 8, 0]])), network(torch.tensor([[0, 2, 3, 4, 5]]))
    torch.testing.assert_close(later_changed[:, :3], states[:, :3])
    assert not torch.allclose(earlier_changed[:, 4], states[:, 4], atol=1e-4)


def test_padding_on_the_right_changes_no_state(network):
    short, padded = network(torch.tensor([[1, 2, 3]])), network(torch.tensor([[1, 2, 3, 0, 0], [5, 6, 7, 8, 1]]))
    torch.testing.assert_close(padded[:1, :3], short)


def test_the_order_of_the_past_matters(network):
    assert not torch.allclose(network(torch.tensor([[1, 2, 3]]))[0, 2], network(torch.tensor([[2, 1, 3]]))[0, 2])


def test_the_loss_is_the_mean_over_real_positions(network):
    items, targets = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[2, 3, 4], [5, 6, 0]])
    real = torch.tensor([[True] * 3, [True, True, False]])
    alone = [
        sasrec._loss(network, items[row : row + 1, :n], targets[row : row + 1, :n], real[row : row + 1, :n])
        for row, n in ((0, 3), (1, 2))
    ]
    expected = (3 * alone[0] + 2 * alone[1]) / 5
    torch.testing.assert_close(sasrec._loss(network, items, targets, real), expected)


def test_a_rule_is_learned_to_the_letter(dataset):
    model = SASRec.fit(dataset, seed=0, config=SASRecConfig(**SMALL, max_epochs=25, learning_rate=1e-2, dropout=0.0))
    metrics = evaluate_recommender(model, dataset, EvaluateConfig(cutoffs=(1,), num_bootstrap=2), seed=0).metrics
    assert metrics["HR@1"]["value"] == 1


def test_the_valid_figure_is_the_one_of_the_evaluation(make_dataset):
    sequences = np.random.default_rng(0).integers(0, 30, size=(25, 9)).tolist()
    dataset = make_dataset(sequences, 30)
    model = SASRec.fit(dataset, seed=0, config=SASRecConfig(**SMALL, max_epochs=2))
    config = EvaluateConfig(split="valid", exclude_history=True, num_bootstrap=2)
    expected = evaluate_recommender(model, dataset, config, seed=0).metrics["NDCG@10"]["value"]
    assert sasrec._valid_ndcg(model, evaluation_set(dataset, config, seed=0)) == pytest.approx(expected)


def test_training_stops_after_its_patience_and_keeps_the_best_epoch(dataset, monkeypatch):
    figures = iter([0.1, 0.3, 0.2, 0.25, 0.1, 0.9])
    weights = []

    def watch(model, cases):
        weights.append(model.network.items.weight.detach().clone())
        return next(figures)

    monkeypatch.setattr(sasrec, "_valid_ndcg", watch)
    model = SASRec.fit(dataset, seed=0, config=SASRecConfig(**SMALL, max_epochs=9, patience=2))
    assert len(weights) == 4
    torch.testing.assert_close(model.network.items.weight.detach(), weights[1], rtol=0, atol=0)
    assert not model.network.training


def test_without_valid_examples_the_last_epoch_is_kept(dataset, monkeypatch):
    epochs = []
    train_epoch = sasrec._train_epoch
    monkeypatch.setattr(sasrec, "_train_epoch", lambda *values: (epochs.append(values[4]), train_epoch(*values)))
    empty = type(dataset)(**{**vars(dataset), "valid": dataset.valid.clear()})
    SASRec.fit(empty, seed=0, config=SASRecConfig(**SMALL, max_epochs=3, patience=1))
    assert epochs == [0, 1, 2]


def test_the_learning_rate_rises_and_falls_to_zero():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    config = SASRecConfig(learning_rate=2.0, warmup_steps=4)
    rates = []
    for step in (0, 3, 10, 20):
        sasrec._set_learning_rate(optimizer, config, step, 20)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [2 * 1 / 4, 2 * 17 / 20, 2 * 1 / 2, 0]


def test_one_seed_gives_one_model_and_leaves_the_caller_s_random_state(dataset):
    config = SASRecConfig(**SMALL, max_epochs=2)
    torch.manual_seed(5)
    models = [SASRec.fit(dataset, seed=seed, config=config) for seed in (0, 0, 1)]
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert drawn == torch.rand(1)
    first, second, third = (model.network.items.weight for model in models)
    assert torch.equal(first, second)
    assert not torch.allclose(first, third)


def test_a_long_history_counts_by_its_end_and_an_empty_one_by_popularity(dataset):
    model = SASRec.fit(dataset, seed=0, config=SASRecConfig(**SMALL, max_epochs=1))
    scores = model.score([[1, 2, 3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8], []])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5, atol=1e-6)
    assert np.argsort(-scores[2], kind="stable").tolist() == np.argsort(-model.counts, kind="stable").tolist()


def test_a_stored_model_is_the_same_model(dataset, tmp_path):
    path, histories = tmp_path / "sasrec.safetensors", [[1, 2, 3, 4, 5, 6, 7, 8], [], [3]]
    model = SASRec.fit(dataset, seed=0, config=SASRecConfig(**SMALL, num_layers=3, max_epochs=1, device="cpu"))
    model.save(path, "ring")
    restored = SASRec.load(path, "ring", device="cpu")
    np.testing.assert_array_equal(restored.score(histories), model.score(histories))
    with pytest.raises(ArtifactError, match="fitted to other data or with other settings"):
        SASRec.load(path, "line", device="cpu")
    with pytest.raises(ArtifactError, match="no such file"):
        SASRec.load(tmp_path / "nothing", device="cpu")


def test_a_few_items_are_scored_as_among_all(dataset):
    model = SASRec.fit(dataset, seed=0, config=SASRecConfig(**SMALL, max_epochs=1, device="cpu"))
    histories, items = [[1, 2, 3, 4, 5, 6, 7, 8], [3]], torch.tensor([[4, 9], [0, 0]])
    expected = np.take_along_axis(model.score(histories), items.numpy(), axis=1)
    np.testing.assert_allclose(model.score_items(histories, items).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_log_without_pairs_is_refused(make_dataset):
    with pytest.raises(DataError, match="no user has two training interactions"):
        SASRec.fit(make_dataset([[0, 1, 2], [2, 1, 0]], 3), seed=0, config=SASRecConfig(**SMALL))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"hidden_size": 0}, "hidden_size must be at least 1, found 0"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"hidden_size": 10, "num_heads": 4}, "hidden_size 10 must be a multiple of num_heads 4"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"learning_rate": 0.0}, "expected a learning rate above 0"),
    ],
)
def test_settings_without_meaning_are_refused(values, problem):
    with pytest.raises(ConfigError, match=problem):
        SASRecConfig(**values)
