from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError, DataError
from itemic.core.ranking import Recommender
from itemic.decode.naive import score_catalog
from itemic.decode.recommender import LanguageModelRecommender, top_probabilities

SIZES = (3, 4)


def prompt(history):
    return [20, *history]


@pytest.fixture
def catalog(make_catalog):
    codes = list(product(range(3), range(4)))
    return make_catalog([codes[row] for row in np.random.default_rng(0).permutation(12)], SIZES)


@pytest.fixture
def recommender(catalog, fake_policy):
    model = fake_policy(SIZES, catalog_version=catalog.version)
    return LanguageModelRecommender(model, catalog, prompt, num_beams=12, batch_size=2)


def test_ranks_the_whole_catalog_as_exhaustive_scoring_does(recommender, catalog, fake_policy) -> None:
    histories = [[1, 2], [], [3]]
    lists = recommender.recommend(histories, k=14)
    assert isinstance(recommender, Recommender)
    sids = list(map(tuple, catalog.codes.tolist()))
    for row, history in enumerate(histories):
        score = score_catalog(fake_policy(SIZES), prompt(history), sids, "legal")
        assert lists.item_index[row].tolist() == [*np.argsort(-score).tolist(), -1, -1]
        np.testing.assert_allclose(lists.score[row, :12], np.sort(score)[::-1])
    np.testing.assert_allclose(top_probabilities(lists).sum(axis=1), 1)
    assert top_probabilities(lists)[0, 12:].tolist() == [0, 0]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_filter_only_takes_items_out(data: st.DataObject, recommender) -> None:
    items = st.lists(st.lists(st.integers(0, 11)), min_size=2, max_size=2)
    exclude, allow = data.draw(st.one_of(st.none(), items)), data.draw(st.one_of(st.none(), items))
    everything = recommender.recommend([[1], [2, 3]], k=12)
    lists = recommender.recommend([[1], [2, 3]], k=12, exclude=exclude, allow=allow)
    for row in range(2):
        wanted = set(range(12) if allow is None else allow[row]) - set(exclude[row] if exclude else ())
        kept = [item for item in everything.item_index[row].tolist() if item in wanted]
        assert lists.item_index[row].tolist() == [*kept, *[-1] * (12 - len(kept))]
        assert np.isneginf(lists.score[row, len(kept) :]).all()
    assert lists.num_tied_beyond.tolist() == [0, 0]


def test_never_fewer_items_than_there_are(make_catalog, fake_policy) -> None:
    """A thin tree under few beams: every level must keep as many nodes as the list is long."""
    catalog = make_catalog([[row, row % 2] for row in range(9)], (9, 2))
    model = fake_policy((9, 2), catalog_version=catalog.version)
    lists = LanguageModelRecommender(model, catalog, prompt, num_beams=1).recommend([[0]], 9, exclude=[[4]])
    assert sorted(lists.item_index[0].tolist()) == [-1, 0, 1, 2, 3, 5, 6, 7, 8]


def test_items_that_share_a_sid_tie(make_catalog, uniform_policy) -> None:
    """Three items on one SID, two on another, one alone; each SID has probability 1/3 or less."""
    codes = [[0, 0], [1, 1], [0, 0], [1, 2], [0, 0], [1, 1]]
    catalog = make_catalog(codes, (2, 3), shares=True)
    model = uniform_policy((2, 3), catalog_version=catalog.version)
    recommender = LanguageModelRecommender(model, catalog, prompt, num_beams=3)
    lists = recommender.recommend([[0]], 2)
    assert lists.item_index.tolist() == [[0, 2]]
    np.testing.assert_allclose(lists.score[0], np.log(1 / 2))
    assert lists.num_tied_beyond.tolist() == [1]
    rest = recommender.recommend([[0], [0]], 2, exclude=[[0, 4], [0, 2, 4]])
    assert rest.item_index[0, 0] == 2
    assert rest.num_tied_beyond.tolist() == [2, 1]
    assert len(set(rest.item_index[1].tolist()) & {1, 3, 5}) == 2
    everything = recommender.recommend([[0]], 6)
    assert sorted(everything.item_index[0].tolist()) == [0, 1, 2, 3, 4, 5]
    assert everything.num_tied_beyond.tolist() == [0]
    assert recommender.recommend([[0]], 8).item_index[0, 6:].tolist() == [-1, -1]


def test_ties_beyond_the_beams_reach_the_list(make_catalog, uniform_policy) -> None:
    catalog = make_catalog([[code] for code in range(10)], (10,))
    model = uniform_policy((10,), catalog_version=catalog.version)
    for num_beams in (2, 5, 50):
        recommender = LanguageModelRecommender(model, catalog, prompt, num_beams=num_beams)
        assert recommender.recommend([[0]], 2, exclude=[[9]]).num_tied_beyond.tolist() == [7]


def test_removed_items_are_never_listed(make_catalog, fake_policy) -> None:
    catalog = make_catalog([[0, 0], [0, 1], [1, 0]], (2, 2)).remove([1])
    model = fake_policy((2, 2), catalog_version=catalog.version)
    lists = LanguageModelRecommender(model, catalog, prompt).recommend([[1]], 3, exclude=[[1]], allow=[[0, 1, 2]])
    assert sorted(lists.item_index[0].tolist()) == [-1, 0, 2]


def test_another_catalog_is_refused_unless_told(catalog, fake_policy) -> None:
    model = fake_policy(SIZES, catalog_version=catalog.version)
    smaller = catalog.remove([3])
    with pytest.raises(
        CatalogError, match=r"1 retired\. Train a model on it, or use this one .* --allow-catalog-change"
    ):
        LanguageModelRecommender(model, smaller, prompt)
    lists = LanguageModelRecommender(model, smaller, prompt, allow_catalog_change=True).recommend([[0]], 12)
    assert 3 not in lists.item_index


def test_bad_input_is_named(recommender) -> None:
    with pytest.raises(DataError, match="k must be at least 1, found 0"):
        recommender.recommend([[0]], 0)
    with pytest.raises(DataError, match=r"histories\[1\] holds item index 12"):
        recommender.recommend([[0], [12]], 1)
    assert recommender.recommend([], 3).item_index.shape == (0, 3)
