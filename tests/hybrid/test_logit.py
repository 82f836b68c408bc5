"""The conditional logit: closed forms, and the likelihood and its derivatives against autograd."""

import numpy as np
import pytest
import torch

from itemic.core.errors import DataError
from itemic.hybrid.fit import fit_weights, ranking_figures
from itemic.hybrid.logit import ChoiceTable, chosen_log_likelihood, fit_logit


def make_table(seed: int = 0, num_examples: int = 60, num_candidates: int = 7, num_features: int = 3) -> ChoiceTable:
    """Choices drawn from the logit of the weights 1, -2, 0.5."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_examples, num_candidates, num_features)).astype(np.float32)
    noise = rng.gumbel(size=(num_examples, num_candidates))
    chosen = (features @ np.array([1, -2, 0.5])[:num_features] + noise).argmax(axis=1)
    return ChoiceTable(features=features, offset=np.zeros(features.shape[:2], dtype=np.float32), chosen=chosen)


def loss_by_autograd(table: ChoiceTable, weights: np.ndarray, l2: float) -> tuple[float, np.ndarray]:
    vector = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    score = torch.from_numpy(table.features).double() @ vector + torch.from_numpy(table.offset)
    loss = torch.nn.functional.cross_entropy(score, torch.from_numpy(table.chosen)) + l2 / 2 * (vector**2).sum()
    loss.backward()
    assert vector.grad is not None
    return loss.item(), vector.grad.numpy()


def test_two_items_have_a_closed_form():
    """Of four users three choose the item with the feature: p = 3/4, so w = log 3."""
    features = np.tile(np.array([[1.0], [0.0]], dtype=np.float32), (4, 1, 1))
    table = ChoiceTable(features=features, offset=np.zeros((4, 2), dtype=np.float32), chosen=np.array([0, 0, 1, 0]))
    weights = fit_logit(table, l2=1e-9)
    np.testing.assert_allclose(weights, [np.log(3)], atol=1e-3)
    expected = np.log([3 / 4, 3 / 4, 1 / 4, 3 / 4])
    np.testing.assert_allclose(chosen_log_likelihood(table, np.array([np.log(3)])), expected, rtol=1e-6)


def test_a_column_counts_for_the_items_that_it_stands_for():
    """One of three items, the two others in one column: the likelihood of all three."""
    features = np.array([[[1.0], [0.0]]], dtype=np.float32)
    table = ChoiceTable(features=features, offset=np.log([[1.0, 2.0]]).astype(np.float32), chosen=np.array([0]))
    np.testing.assert_allclose(chosen_log_likelihood(table, np.array([np.log(2)])), [np.log(2 / 4)], rtol=1e-6)


def test_the_fit_is_where_autograd_finds_no_slope():
    table = make_table()
    weights = fit_logit(table, l2=0.01)
    loss, slope = loss_by_autograd(table, weights, 0.01)
    np.testing.assert_allclose(slope, 0, atol=1e-4)
    mean = chosen_log_likelihood(table, weights).mean()
    np.testing.assert_allclose(-mean + 0.005 * weights @ weights, loss, rtol=1e-6)
    assert loss < loss_by_autograd(table, np.zeros(3), 0.01)[0]


def test_rows_and_start_are_honoured():
    table, rows = make_table(), np.arange(30)
    part = ChoiceTable(features=table.features[:30], offset=table.offset[:30], chosen=table.chosen[:30])
    wanted = fit_logit(part, l2=0.01)
    np.testing.assert_allclose(fit_logit(table, l2=0.01, rows=rows, start=np.ones(3)), wanted, atol=1e-3)
    with pytest.raises(DataError, match="no example"):
        fit_logit(table, l2=0.01, rows=rows[:0])


def test_choices_that_one_feature_explains_wholly_stay_finite():
    table = make_table()
    table.features[..., 0] = 0
    table.features[np.arange(60), table.chosen, 0] = 1
    weights = fit_logit(table, l2=1e-4)
    assert np.isfinite(weights).all()
    assert np.exp(chosen_log_likelihood(table, weights)).min() > 0.9


def test_what_was_chosen_must_be_a_candidate():
    table = make_table()
    table.offset[3, table.chosen[3]] = -np.inf
    with pytest.raises(DataError, match="example 3: what was chosen is no candidate"):
        ChoiceTable(features=table.features, offset=table.offset, chosen=table.chosen)


def test_order_and_units_of_features_change_no_prediction():
    table, owner = make_table(num_examples=80), np.repeat(np.arange(40), 2)
    order, units = [2, 0, 1], np.array([10, 0.1, 3], dtype=np.float32)
    other = ChoiceTable(features=table.features[..., order] * units, offset=table.offset, chosen=table.chosen)
    first, second = (
        fit_weights(each, owner, penalties=(1e-3, 1e-1), num_folds=4, rng=np.random.default_rng(5))
        for each in (table, other)
    )
    assert first.l2 == second.l2
    np.testing.assert_allclose(first.weights[order], second.weights * units, atol=2e-3)
    assert first.out_of_fold == pytest.approx(second.out_of_fold, abs=1e-3)
    assert set(first.log_likelihood) == {1e-3, 1e-1}


def test_ranking_figures_by_hand():
    """Ranks 1 and 3 (a column that stands for two items lies before the second target)."""
    features = np.array([[[2.0], [1.0]], [[1.0], [2.0]]], dtype=np.float32)
    offset = np.log([[1.0, 1.0], [1.0, 2.0]]).astype(np.float32)
    table = ChoiceTable(features=features, offset=offset, chosen=np.array([0, 0]))
    figures = ranking_figures(table, np.ones((2, 1)))
    assert figures["HR@10"] == 1.0
    assert figures["NDCG@10"] == pytest.approx((1 + 1 / 2) / 2)
