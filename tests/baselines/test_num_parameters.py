"""What counts as fitted: weights and similarities, not how often items occur, texts, or where sparse numbers lie."""

import numpy as np
import pytest

from itemic.baselines import BASELINES, Materials

NUM_ITEMS = 6


@pytest.mark.parametrize(
    ("kind", "num_parameters"),
    [
        ("popularity", lambda model: 0),
        ("repeat-last", lambda model: 0),
        ("text-knn", lambda model: 0),
        ("item-knn", lambda model: model.similarity.nnz),
        ("covisit-knn", lambda model: model.covisits.nnz),
        ("covisit-text", lambda model: model.covisits.covisits.nnz),
        ("ease", lambda model: NUM_ITEMS**2),
        ("gru4rec", lambda model: sum(weights.numel() for weights in model.network.parameters())),
    ],
)
def test_only_what_was_fitted_is_counted(kind, num_parameters, make_dataset):
    dataset = make_dataset([[0, 1, 2, 3, 4], [2, 3, 4, 5, 0], [1, 2, 3, 4, 5]], NUM_ITEMS)
    vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 4)).astype(np.float32)
    settings = BASELINES[kind].settings(**({"max_epochs": 1} if kind == "gru4rec" else {}))
    model = BASELINES[kind].fit(Materials(dataset=dataset, vectors=vectors), settings, 0)
    assert model.num_parameters == num_parameters(model)
