"""The loop: the loss of padded batches, the choice of the epoch, the schedule."""

import numpy as np
import pytest
import torch

from itemic.baselines.sequential import GRU4Rec, SASRec, training
from itemic.baselines.sequential.batch import Batch
from itemic.core.errors import DataError
from itemic.evaluate import EvaluateConfig, evaluate_recommender, evaluation_set


@pytest.fixture
def network(model_type, settings):
    torch.manual_seed(0)
    return model_type.make_network(**model_type.shape_of(settings(), 9)).eval()


def one_row(items, target):
    scored = torch.arange(len(items)) == len(items) - 1
    return Batch(items=torch.tensor([items]), scored=scored[None], targets=torch.tensor([target]))


def test_the_loss_is_the_mean_over_scored_positions(network):
    batch = Batch(
        items=torch.tensor([[1, 2, 3], [4, 5, 0]]),
        scored=torch.tensor([[False, False, True], [False, True, False]]),
        targets=torch.tensor([4, 6]),
    )
    alone = [training.softmax_loss(network, one_row(*row)) for row in (([1, 2, 3], 4), ([4, 5], 6))]
    torch.testing.assert_close(training.softmax_loss(network, batch), sum(alone) / 2)


def test_every_real_position_of_a_window_counts_once():
    torch.manual_seed(0)
    network = SASRec.make_network(
        num_items=9, max_length=6, hidden_size=8, num_layers=1, num_heads=2, dropout=0.5
    ).eval()
    batch = Batch(
        items=torch.tensor([[1, 2], [4, 0]]),
        scored=torch.tensor([[True, True], [True, False]]),
        targets=torch.tensor([2, 3, 5]),
    )
    alone = [training.softmax_loss(network, one_row(*row)) for row in (([1], 2), ([1, 2], 3), ([4], 5))]
    torch.testing.assert_close(training.softmax_loss(network, batch), sum(alone) / 3)


def test_the_binary_loss_sets_each_target_against_the_item_drawn_for_it(network):
    batch = one_row([1, 2, 3], 4)
    negative = int(training.draw_negatives(batch.targets, 9, np.random.default_rng(3))[0])
    logits = network.logits(network.states(batch.items, batch.scored))[0]
    expected = training.binary_cross_entropy(logits[4:5], logits[negative : negative + 1])
    torch.testing.assert_close(training.bce_loss(network, batch, np.random.default_rng(3)), expected)


def test_one_item_has_no_other_to_be_set_against(make_dataset):
    with pytest.raises(DataError, match="the catalogue has one item"):
        GRU4Rec.fit(make_dataset([[0, 0, 0, 0]], 1), seed=0)


def test_the_valid_figure_is_the_one_of_the_evaluation(model_type, settings, make_dataset):
    sequences = np.random.default_rng(0).integers(0, 30, size=(25, 9)).tolist()
    dataset = make_dataset(sequences, 30)
    model = model_type.fit(dataset, seed=0, config=settings(max_epochs=2))
    config = EvaluateConfig(split="valid", exclude_history=True, num_bootstrap=2)
    expected = evaluate_recommender(model, dataset, config, seed=0).metrics["NDCG@10"]["value"]
    assert training.valid_ndcg(model, evaluation_set(dataset, config, seed=0)) == pytest.approx(expected)


def test_training_stops_after_its_patience_and_keeps_the_best_epoch(model_type, settings, dataset, monkeypatch):
    figures = iter([0.1, 0.3, 0.2, 0.25, 0.1, 0.9])
    weights = []

    def watch(model, cases):
        weights.append(model.network.items.weight.detach().clone())
        return next(figures)

    monkeypatch.setattr(training, "valid_ndcg", watch)
    model = model_type.fit(dataset, seed=0, config=settings(max_epochs=9, patience=2))
    assert len(weights) == 4
    torch.testing.assert_close(model.network.items.weight.detach(), weights[1], rtol=0, atol=0)
    assert not model.network.training


def test_without_valid_examples_the_last_epoch_is_kept(model_type, settings, dataset, monkeypatch):
    epochs = []
    train_epoch = training.train_epoch
    monkeypatch.setattr(training, "train_epoch", lambda *values: (epochs.append(values[2]), train_epoch(*values)))
    empty = type(dataset)(**{**vars(dataset), "valid": dataset.valid.clear()})
    model_type.fit(empty, seed=0, config=settings(max_epochs=3, patience=1))
    assert epochs == [0, 1, 2]


def test_the_learning_rate_rises_and_falls_to_zero():
    rates = [training.linear_rate(2.0, 4, step, 20) for step in (0, 3, 10, 20)]
    assert rates == [2 * 1 / 4, 2 * 17 / 20, 2 * 1 / 2, 0]
