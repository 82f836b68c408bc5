"""Blends of small members: features by hand, the order of members, filters, refusals, the search under a prior."""

import numpy as np
import pytest

from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Recommendations
from itemic.hybrid.blend import Blend, SearchedBlend
from itemic.hybrid.choices import make_choices
from itemic.hybrid.features import FeatureSet, popularity_counts
from itemic.hybrid.fit import fit_weights
from itemic.hybrid.members import LanguageMember, complete_logprobs

COUNTS = {"log-popularity": np.array([0, 1, 3, 7])}


class Table:
    """A member whose scores follow from the last item of the history."""

    num_parameters = 5

    def __init__(self, name: str, seed: int, *, is_logprob: bool = False, num_items: int = 4) -> None:
        score = np.random.default_rng(seed).gamma(1, size=(num_items + 1, num_items))
        self.name, self.is_logprob = name, is_logprob
        self.scores = np.log(score / score.sum(axis=1, keepdims=True)) if is_logprob else score

    def score(self, histories):
        return self.scores[[history[-1] if len(history) else -1 for history in histories]]


def make_blend(order: int = 1, num_items: int = 4) -> tuple[Blend, np.ndarray]:
    """A blend fitted to targets that follow the first member."""
    members = [Table("model", 0, is_logprob=True, num_items=num_items), Table("knn", 1, num_items=num_items)][::order]
    rng = np.random.default_rng(3)
    histories = [[int(item)] for item in rng.integers(num_items, size=200)]
    first = next(member for member in members if member.name == "model")
    target = (first.score(histories) + rng.gumbel(size=(200, num_items))).argmax(axis=1)
    counts = {"log-popularity": np.arange(num_items)}
    features = FeatureSet.measure(members, histories[:20], counts)
    active = np.ones(num_items, dtype=bool)
    table = make_choices(members, features, histories, target, active, max_candidates=max(num_items, 100), seed=0)
    fitted = fit_weights(table, np.arange(200), penalties=(1e-3,), num_folds=3, rng=np.random.default_rng(0))
    weights = dict(zip(features.names, fitted.weights.tolist(), strict=True))
    return Blend(members, features, weights, active), target


def test_features_by_hand():
    features = FeatureSet.from_plain({"model": [], "knn": [0.5]}, COUNTS)
    assert features.names == ["knn", "log knn 1", "model", "in-history", "recency", "log-popularity"]
    scores = {"knn": np.array([[-1.0, 0, 0.5, 2]]), "model": np.log([[0.1, 0.2, 0.3, 0.4]])}
    columns = list(features.columns(scores, [[3, 1, 3]]))
    expected = [
        scores["knn"][0],
        np.log([0.5, 0.5, 1, 2.5]),
        scores["model"][0],
        [0, 1, 0, 1],
        [0, 1 / 2, 0, 1],
        np.log([1, 2, 4, 8]),
    ]
    for column, wanted in zip(columns, expected, strict=True):
        np.testing.assert_allclose(column[0], wanted, rtol=1e-6)


def test_bends_lie_at_quantiles_of_what_is_evidence():
    member = Table("knn", 0)
    member.scores = np.array([[0, 1e-12, 1, 2], [3, 4, 5, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert FeatureSet.measure([member], [[0], [1]], COUNTS).epsilons["knn"] == pytest.approx((1.4, 3.0, 4.6))
    assert FeatureSet.measure([member], [[2]], COUNTS).epsilons["knn"] == (1.0,)


def test_the_order_of_members_changes_nothing():
    (first, _), (second, _) = make_blend(), make_blend(order=-1)
    assert first.weights == second.weights
    np.testing.assert_array_equal(first.score([[0], [], [3, 2]]), second.score([[0], [], [3, 2]]))


def test_scores_are_log_probabilities_and_the_member_that_knows_weighs_most():
    blend, _ = make_blend()
    np.testing.assert_allclose(np.exp(blend.score([[0], [1, 2]])).sum(axis=1), 1)
    assert blend.weights["model"] > 0.5


def test_retired_items_are_never_listed_and_what_is_allowed_is_counted():
    blend, _ = make_blend()
    active = np.array([True, False, True, True])
    blend = Blend(blend.members, blend.features, blend.weights, active)
    lists = blend.recommend([[0], [2]], 4, exclude=[[3], []])
    assert lists.num_allowed is not None
    assert lists.num_allowed.tolist() == [2, 3]
    assert sorted(lists.item_index[0].tolist()) == [-1, -1, 0, 2]
    np.testing.assert_allclose(np.exp(blend.score([[0]])).sum(), 1)


def test_a_drawn_table_finds_about_the_weights_of_the_whole_one():
    members = [Table("model", 0, is_logprob=True, num_items=600), Table("knn", 1, num_items=600)]
    rng = np.random.default_rng(3)
    histories = [[int(item)] for item in rng.integers(600, size=400)]
    target = (0.8 * members[0].score(histories) + rng.gumbel(size=(400, 600))).argmax(axis=1)
    features, active = (
        FeatureSet.measure(members, histories[:20], {"log-popularity": np.arange(600)}),
        np.ones(600, dtype=bool),
    )
    whole, drawn = (
        fit_weights(
            make_choices(members, features, histories, target, active, max_candidates=most, seed=0),
            np.arange(400),
            penalties=(1e-2,),
            num_folds=2,
            rng=np.random.default_rng(0),
        )
        for most in (600, 300)
    )
    at = features.names.index("model")
    assert whole.weights[at] == pytest.approx(drawn.weights[at], abs=0.05)
    assert whole.out_of_fold["log_likelihood"] == pytest.approx(drawn.out_of_fold["log_likelihood"], abs=0.1)


def test_excluded_items_are_no_candidates_and_no_targets():
    members = [Table("knn", 1)]
    features, active = FeatureSet.measure(members, [[0]], COUNTS), np.ones(4, dtype=bool)
    options = {"max_candidates": 100, "seed": 0}
    table = make_choices(members, features, [[0]], np.array([1]), active, [[0]], **options)
    assert np.isneginf(table.offset[0]).tolist() == [True, False, False, False]
    with pytest.raises(DataError, match="no candidate"):
        make_choices(members, features, [[0]], np.array([0]), active, [[0]], **options)


def test_members_of_another_blend_are_refused():
    blend, _ = make_blend()
    with pytest.raises(ConfigError, match="a blend of knn, model got the members model"):
        Blend(blend.members[:1], blend.features, blend.weights, blend.is_active)
    with pytest.raises(ConfigError, match="expected weights of knn, "):
        Blend(blend.members, blend.features, {"knn": 1.0}, blend.is_active)


def lists_of(items: list[int], probabilities: list[float]) -> Recommendations:
    return Recommendations(
        item_index=np.array([items]), score=np.log([probabilities]), num_tied_beyond=np.zeros(1, dtype=np.int64)
    )


def test_unlisted_items_share_what_is_left_and_lie_below_the_listed():
    np.testing.assert_allclose(np.exp(complete_logprobs(lists_of([2, 0], [0.6, 0.3]), 4)), [[0.3, 0.05, 0.6, 0.05]])
    np.testing.assert_allclose(np.exp(complete_logprobs(lists_of([2, 0], [0.4, 0.1]), 4)), [[0.1, 0.1, 0.4, 0.1]])


class Fixed:
    """A recommender that always gives one list."""

    name = "fixed"

    def __init__(self, lists: Recommendations) -> None:
        self.lists = lists

    def recommend(self, histories, k, exclude=None, allow=None):
        return self.lists


def test_an_ensemble_is_the_mean_probability():
    models = [Fixed(lists_of([0, 1], [0.7, 0.3])), Fixed(lists_of([1, 0], [0.9, 0.1]))]
    np.testing.assert_allclose(np.exp(LanguageMember("model", models, 2, 2).score([[0]])), [[0.4, 0.6]], rtol=1e-5)
    with pytest.raises(ConfigError, match="at least one language model"):
        LanguageMember("model", [], 2, 2)


def test_the_search_under_a_prior_gets_the_rest_of_the_sum(language_model):
    """Where beams cover the tree both searches find the same; the searched scores are the sums before normalisation."""
    model = language_model(0)
    members = [LanguageMember("model", [model], 12, 12), Table("knn", 1, num_items=12)]
    features = FeatureSet.measure(members, [[0], [5]], {"log-popularity": np.arange(12)})
    weights = {name: 0.8 if name == "model" else 0.3 for name in features.names}
    blend = Blend(members, features, weights, np.ones(12, dtype=bool))
    searched = SearchedBlend(blend, model.recommend_with_prior)
    histories = [[0], [3, 1], []]
    first, second = (each.recommend(histories, 7, exclude=[[1], [], []]) for each in (blend, searched))
    assert first.item_index.tolist() == second.item_index.tolist()
    np.testing.assert_allclose(np.diff(first.score), np.diff(second.score), rtol=1e-4, atol=1e-5)


def test_a_search_needs_one_language_model():
    blend, _ = make_blend()
    other = Table("other", 4, is_logprob=True)
    features = FeatureSet.from_plain({**blend.features.epsilons, "other": []}, {"log-popularity": np.arange(4)})
    weights = {**blend.weights, "other": 1.0}
    with pytest.raises(ConfigError, match="exactly one language model"):
        SearchedBlend(Blend([*blend.members, other], features, weights, blend.is_active), lambda *given: None)
    weights = {**blend.weights, "model": 0.0}
    with pytest.raises(ConfigError, match="weight is not above 0"):
        SearchedBlend(Blend(blend.members, blend.features, weights, blend.is_active), lambda *given: None)


def test_popularity_is_counted_over_all_targets_and_over_the_newest(make_dataset):
    """The newest fifth of ten targets is two; the newest twentieth is one."""
    counts = popularity_counts(make_dataset([[0, 1, 2, 1, 3, 1, 2, 2, 1, 3, 0, 0, 0]], 4))
    assert counts["log-popularity"].tolist() == [1, 4, 3, 2]
    assert counts["log-popularity, newest 20%"].tolist() == [1, 0, 0, 1]
    assert counts["log-popularity, newest 5%"].tolist() == [1, 0, 0, 0]
