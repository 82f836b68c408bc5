from typing import Any

import pytest

from itemic.core.errors import ArtifactError, ConfigError
from itemic.evaluate.report.focus import pick_cutoff, score, standing


def _metrics(**values: float) -> dict[str, Any]:
    return {
        "protocol": {"cutoffs": [5, 10]},
        "recommenders": {name: {"metrics": {"NDCG@10": {"value": value}}} for name, value in values.items()},
        "comparisons": [
            {"a": "SASRec", "b": "itemic", "metric": "NDCG@10", "difference": 0.25, "low": 0.125, "high": 0.5}
        ],
    }


def test_the_own_recommender_is_in_front_even_when_it_is_not_the_best() -> None:
    place = standing(_metrics(itemic=0.25, SASRec=0.5, Popularity=0.125), 10, None)
    assert (place.focus, place.rival, place.order) == ("itemic", "SASRec", ("SASRec", "itemic", "Popularity"))


def test_without_it_the_best_is() -> None:
    place = standing(_metrics(EASE=0.25, SASRec=0.5), 10, None)
    assert (place.focus, place.rival) == ("SASRec", "EASE")


def test_a_comparison_made_the_other_way_round_is_turned() -> None:
    comparison = standing(_metrics(itemic=0.25, SASRec=0.5), 10, None).comparison
    assert comparison is not None
    assert (comparison["a"], comparison["b"]) == ("itemic", "SASRec")
    assert (comparison["low"], comparison["difference"], comparison["high"]) == (-0.5, -0.25, -0.125)


def test_one_recommender_has_no_rival() -> None:
    place = standing(_metrics(itemic=0.25), 10, None)
    assert place.rival is None
    assert place.comparison is None


def test_an_unknown_focus_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"focus 'Itemic': metrics.json has the recommenders SASRec, itemic"):
        standing(_metrics(itemic=0.25, SASRec=0.5), 10, "Itemic")


@pytest.mark.parametrize(("cutoffs", "asked", "expected"), [([5, 10], None, 10), ([1, 5], None, 5), ([1, 5], 1, 1)])
def test_the_cutoff_is_ten_where_it_can_be(cutoffs: list[int], asked: int | None, expected: int) -> None:
    assert pick_cutoff({"protocol": {"cutoffs": cutoffs}}, asked) == expected


def test_a_cutoff_that_was_not_evaluated_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cutoff 7: metrics.json has 5, 10"):
        pick_cutoff({"protocol": {"cutoffs": [5, 10]}}, 7)


def test_missing_figures_are_named() -> None:
    with pytest.raises(ArtifactError, match="holds no recommender"):
        standing({"protocol": {"cutoffs": [10]}, "recommenders": {}}, 10, None)
    with pytest.raises(ArtifactError, match="itemic has no HR@10"):
        score(_metrics(itemic=0.25), "itemic", "HR@10")
