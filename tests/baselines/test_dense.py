"""Batching, filters and bad input of every baseline that scores the whole catalogue; and the registry."""

import numpy as np
import pytest

import itemic.baselines.dense
from itemic.baselines import BASELINES, CovisitKNN, Materials, Popularity, fit_baseline
from itemic.core.errors import ConfigError
from itemic.sid.catalog import Catalog

SEQUENCES = [[0, 1, 2, 3, 4], [4, 3, 0, 1], [2, 1, 4, 0, 3]]


@pytest.mark.parametrize("max_cells", [1, 5, 11, 1000])
def test_pieces_of_a_batch_give_the_whole(make_dataset, monkeypatch, max_cells):
    model = CovisitKNN.fit(make_dataset(SEQUENCES, 5), seed=0)
    histories, exclude, allow = [[0], [1, 2], [], [3]], [[1], [], [0], [4]], [[1, 2], [0, 3], [0], [1, 4]]
    whole = model.recommend(histories, 3, exclude, allow)
    monkeypatch.setattr(itemic.baselines.dense, "_MAX_CELLS", max_cells)
    pieces = model.recommend(histories, 3, exclude, allow)
    assert whole.item_index.tolist() == pieces.item_index.tolist() == [[2, -1, -1], [0, 3, -1], [-1] * 3, [1, -1, -1]]
    np.testing.assert_array_equal(whole.score, pieces.score)
    assert whole.num_tied_beyond.tolist() == pieces.num_tied_beyond.tolist()


def test_a_baseline_is_fitted_by_its_name(make_dataset):
    assert isinstance(fit_baseline("popularity", make_dataset(SEQUENCES, 5), seed=0), Popularity)


def test_names_in_tables_differ(make_dataset):
    dataset = make_dataset(SEQUENCES, 5)
    catalog = Catalog(np.arange(5)[:, None], dataset.items["item_id"].to_list(), (5,))
    given = Materials(dataset=dataset, vectors=np.eye(5, dtype=np.float32), catalog=catalog)
    models = [fit_baseline(kind, given, seed=0) for kind in BASELINES]
    assert len({model.name for model in models}) == len(BASELINES)
    assert [model.name for model in models] == [kind.name for kind in BASELINES.values()]


def test_an_unknown_baseline_is_refused(make_dataset):
    with pytest.raises(ConfigError, match="no baseline 'pop'; there are popularity, repeat-last"):
        fit_baseline("pop", make_dataset(SEQUENCES, 5), seed=0)
