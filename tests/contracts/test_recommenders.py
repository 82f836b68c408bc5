"""The contract of every recommender (core.ranking.Recommender): lists, filters, ties, determinism, bad input.

A further recommender joins by a factory in RECOMMENDERS.
"""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itemic.baselines import BASELINES, Baseline, Materials, fit_baseline, load_baseline
from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, ITEM_SCHEMA, Dataset
from itemic.core.errors import ArtifactError, DataError
from itemic.core.ranking import Recommender
from itemic.decode import LanguageModelRecommender
from itemic.evaluate import check_recommendations
from itemic.hybrid import Blend, FeatureSet, LanguageMember, RowMember, SearchedBlend
from itemic.language import Renderer, Spelling
from itemic.model import DecoderConfig, SidModel, make_decoder, make_sid_tokenizer
from itemic.sid import Catalog

NUM_ITEMS = 9


def make_language_model(dataset: Dataset, codes: np.ndarray, name: str, *, shares: bool) -> Recommender:
    """An untrained decoder: the contract asks for no good lists."""
    spelling = Spelling(style="plain", codebook_sizes=(4, 4))
    catalog = Catalog(codes, dataset.items["item_id"].to_list(), spelling.codebook_sizes, shares=shares)
    tokenizer, shape = make_sid_tokenizer(spelling), DecoderConfig(hidden_size=16, num_layers=1, num_heads=2)
    network = make_decoder(shape, len(tokenizer), np.random.default_rng(0)).eval()
    model = SidModel(
        network, tokenizer, spelling, prompt_mode="sid-only", prompt_version="", catalog_version=catalog.version
    )
    prompt = Renderer(tokenizer, spelling, codes, "sid-only").next_item_prompt
    return LanguageModelRecommender(model, catalog, prompt, num_beams=NUM_ITEMS, batch_size=3, name=name)


def fit(kind: str, dataset: Dataset) -> Baseline:
    """The baseline with what any kind may need, and its defaults but for what makes training long."""
    vectors = np.random.default_rng(1).normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    catalog = Catalog(UNIQUE_CODES, dataset.items["item_id"].to_list(), (4, 4))
    materials = Materials(dataset=dataset, vectors=vectors, catalog=catalog)
    return fit_baseline(kind, materials, seed=0, settings=BASELINES[kind].settings(**QUICK.get(kind, {})))


def make_blend(dataset: Dataset, *, searched: bool) -> Recommender:
    """An untrained decoder with co-visits and text, by weights that were not fitted."""
    model = make_language_model(dataset, UNIQUE_CODES, "itemic", shares=False)
    members = [LanguageMember("model", [model], NUM_ITEMS, NUM_ITEMS)]
    members += [RowMember(kind, fit(kind, dataset)) for kind in ("covisit-knn", "text-knn")]
    features = FeatureSet.measure(members, [[0, 1], [5]], {"log-popularity": np.arange(NUM_ITEMS)})
    weights = {name: 0.1 * place for place, name in enumerate(features.names, start=1)}
    blend = Blend(members, features, weights, np.ones(NUM_ITEMS, dtype=bool))
    if not searched:
        return blend
    blend.name = "itemic blend, searched"
    return SearchedBlend(blend, model.recommend_with_prior)


UNIQUE_CODES = np.array([[item // 3, (item * 2) % 3] for item in range(NUM_ITEMS)])
QUICK: dict[str, dict[str, object]] = {
    **{kind: {"max_epochs": 5} for kind in ("gru4rec", "caser", "sasrec-bce")},
    **{kind: {"max_epochs": 5, "hidden_size": 16} for kind in ("sasrec", "hstu")},
    "tiger": {
        "max_epochs": 2,
        "hidden_size": 16,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "head_size": 8,
        "feed_forward_size": 32,
    },
}
CHOOSE_AN_EPOCH = tuple(QUICK)
SHARED_CODES = np.array([[0, 0], [0, 1], [0, 0], [1, 3], [2, 2], [0, 0], [1, 3], [3, 3], [3, 0]])
RECOMMENDERS: dict[str, Callable[[Dataset], Recommender]] = {
    **{kind: lambda dataset, kind=kind: fit(kind, dataset) for kind in BASELINES},
    "blend": lambda dataset: make_blend(dataset, searched=False),
    "blend_searched": lambda dataset: make_blend(dataset, searched=True),
    "itemic": lambda dataset: make_language_model(dataset, UNIQUE_CODES, "itemic", shares=False),
    "itemic_shared": lambda dataset: make_language_model(dataset, SHARED_CODES, "itemic, shared SIDs", shares=True),
}

histories = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=12), min_size=1, max_size=4)
item_sets = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=NUM_ITEMS)
with_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


def make_dataset(last_items: tuple[int, int] = (7, 6)) -> Dataset:
    """Users walk the items in steps of one or two; item 8 never occurs; the last two items are valid and test."""
    log, examples = [], {"train": [], "valid": [], "test": []}
    for user in range(8):
        items = [(user + step * (1 + user % 2)) % 8 for step in range(5)] + list(last_items)
        for position, item in enumerate(items):
            split = {1: "test", 2: "valid"}.get(len(items) - position, "train")
            log.append((f"u{user}", item, position, "view", split))
            if position:
                examples[split].append((len(log), f"u{user}", items[:position], item, position))
    catalogue = [(index, f"i{index}", f"title {index}", "") for index in range(NUM_ITEMS)]
    return Dataset(
        items=pl.DataFrame(catalogue, ITEM_SCHEMA, orient="row"),
        interactions=pl.DataFrame(log, INTERACTION_SCHEMA, orient="row"),
        info={"keeps_repeats": True},
        **{name: pl.DataFrame(rows, EXAMPLE_SCHEMA, orient="row") for name, rows in examples.items()},
    )


@pytest.fixture(scope="module", params=RECOMMENDERS)
def key(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def recommender(key) -> Recommender:
    return RECOMMENDERS[key](make_dataset())


def test_it_is_a_recommender_with_a_name(recommender):
    assert isinstance(recommender, Recommender)
    assert recommender.name


@with_fixture
@given(histories=histories, k=st.integers(1, NUM_ITEMS + 2), data=st.data())
def test_lists_are_well_formed_and_filters_are_kept(recommender, histories, k, data):
    per_user = st.lists(item_sets, min_size=len(histories), max_size=len(histories))
    exclude, allow = data.draw(st.none() | per_user), data.draw(st.none() | per_user)
    lists = recommender.recommend(histories, k, exclude, allow)
    check_recommendations(lists, len(histories), k, recommender.name)
    for row in range(len(histories)):
        candidates = set(range(NUM_ITEMS)) if allow is None else set(allow[row])
        candidates -= set() if exclude is None else set(exclude[row])
        listed = lists.item_index[row][lists.item_index[row] >= 0].tolist()
        assert len(listed) == len(set(listed)) == min(k, len(candidates))
        assert set(listed) <= candidates
        assert np.isfinite(lists.score[row, : len(listed)]).all()
        assert np.isneginf(lists.score[row, len(listed) :]).all()


@with_fixture
@given(histories=histories, k=st.integers(1, NUM_ITEMS))
def test_ties_beyond_the_list_are_counted(recommender, histories, k):
    short, whole = recommender.recommend(histories, k), recommender.recommend(histories, NUM_ITEMS)
    for row in range(len(histories)):
        level = whole.score[row] == whole.score[row, k - 1]
        assert short.num_tied_beyond[row] == level[k:].sum()


def test_a_user_s_list_does_not_depend_on_the_others_in_the_batch(recommender):
    histories = [[0, 1], [], [5, 6, 7, 0, 1, 2, 3, 4], [3]]
    together = recommender.recommend(histories, NUM_ITEMS)
    for row, history in enumerate(histories):
        alone = recommender.recommend([history], NUM_ITEMS)
        np.testing.assert_allclose(alone.score[0], together.score[row], rtol=1e-5, atol=1e-6)


def test_asking_again_and_fitting_again_change_nothing(key, recommender):
    again = RECOMMENDERS[key](make_dataset())
    first, second, third = (model.recommend([[0, 1, 2]], 5) for model in (recommender, recommender, again))
    assert first.item_index.tolist() == second.item_index.tolist() == third.item_index.tolist()
    np.testing.assert_array_equal(first.score, second.score)
    np.testing.assert_array_equal(first.score, third.score)


def test_an_empty_batch_gives_an_empty_result(recommender):
    lists = recommender.recommend([], 4)
    assert lists.item_index.shape == lists.score.shape == (0, 4)
    assert lists.num_tied_beyond.shape == (0,)


@pytest.mark.parametrize("item", [-1, NUM_ITEMS])
def test_an_item_outside_the_catalogue_is_refused(recommender, item):
    with pytest.raises(DataError, match=rf"histories\[1\] holds item index {item}"):
        recommender.recommend([[0], [1, item]], 3)
    with pytest.raises(DataError, match=rf"exclude\[0\] holds item index {item}"):
        recommender.recommend([[0]], 3, exclude=[[item]])


def test_filters_of_another_length_and_lists_of_no_length_are_refused(recommender):
    with pytest.raises(DataError, match="exclude has 1 lists for 2 histories"):
        recommender.recommend([[0], [1]], 3, exclude=[[0]])
    with pytest.raises(DataError, match="k must be at least 1, found 0"):
        recommender.recommend([[0]], 0)


@pytest.mark.parametrize("kind", BASELINES)
def test_a_baseline_is_the_same_after_it_was_kept_in_a_file(kind, tmp_path):
    fitted = fit(kind, make_dataset())
    fitted.save(tmp_path / "row.safetensors", "these data")
    again = load_baseline(kind, tmp_path / "row.safetensors", "these data")
    histories = [[0, 1, 2], [], [5]]
    first, second = (model.recommend(histories, NUM_ITEMS) for model in (fitted, again))
    assert first.item_index.tolist() == second.item_index.tolist()
    np.testing.assert_array_equal(first.score, second.score)
    assert again.num_parameters == fitted.num_parameters >= 0
    with pytest.raises(ArtifactError, match="fitted to other data or with other settings"):
        load_baseline(kind, tmp_path / "row.safetensors", "other data")


@pytest.mark.parametrize("name", BASELINES)
def test_held_out_items_teach_nothing(name):
    """Test items change nothing that is learned, nor do valid items but where they choose the epoch."""
    other = (7, 3) if name in CHOOSE_AN_EPOCH else (8, 3)
    first, second = (RECOMMENDERS[name](make_dataset(last)).recommend([[0, 1, 2]], 9) for last in ((7, 6), other))
    np.testing.assert_array_equal(first.score, second.score)
