"""metrics.json and the ranking files, whole."""

import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Recommendations
from itemic.evaluate import (
    EvaluateConfig,
    compare_runs,
    evaluate_all,
    evaluate_recommender,
    evaluation_set,
    ranking_file_name,
)
from itemic.evaluate.evaluate import RowFacts

SEQUENCES = [[0, 1, 2, 3], [4, 5, 3, 0], [2, 4, 1, 5], [5, 3, 4, 1]]
CONFIG = EvaluateConfig(cutoffs=(1, 2), num_bootstrap=200)


@pytest.fixture
def dataset(make_dataset):
    return make_dataset(SEQUENCES, 6)


def test_values_by_hand(dataset, fixed_scores):
    found = evaluate_recommender(fixed_scores([6, 5, 4, 3, 2, 1]), dataset, CONFIG, seed=0)
    # candidates by falling score: 3 4 5 | 0 1 2 | 0 3 5 | 0 1 2; targets 3, 0, 5, 1: ranks 1, 1, 3, 2
    value = {label: figures["value"] for label, figures in found.metrics.items()}
    assert value["HR@1"] == value["Recall@1"] == value["MRR@1"] == value["NDCG@1"] == 1 / 2
    assert value["HR@2"] == 3 / 4
    assert value["MRR@2"] == pytest.approx((1 + 1 + 1 / 2) / 4)
    assert value["NDCG@2"] == pytest.approx((1 + 1 + 1 / math.log2(3)) / 4)
    assert value["Coverage@1"] == 2 / 6
    assert value["Coverage@2"] == 4 / 6
    assert value["Invalid@2"] == 0
    # training counts 1 1 1 1 2 2 of 8, one added: shares 2/14 ... 3/14; listed first: 3 0 0 0
    assert value["Novelty@1"] == pytest.approx(-math.log2(2 / 14))


def test_ranking_metrics_have_intervals_that_hold_the_value(dataset, fixed_scores):
    metrics = evaluate_recommender(fixed_scores([6, 5, 4, 3, 2, 1]), dataset, CONFIG, seed=0).metrics
    for label, figures in metrics.items():
        if label.split("@")[0] in ("HR", "Recall", "NDCG", "MRR"):
            assert 0 <= figures["low"] <= figures["value"] <= figures["high"] <= 1
        else:
            assert list(figures) == ["value"]


def test_the_breakdown_adds_up_to_the_whole(dataset, fixed_scores):
    found = evaluate_recommender(fixed_scores([6, 5, 4, 3, 2, 1]), dataset, CONFIG, seed=0)
    for groups in found.breakdown.values():
        assert sum(group["num_examples"] for group in groups) == 4
        total = sum(group["num_examples"] * group["metrics"]["HR@2"]["value"] for group in groups)
        assert total / 4 == pytest.approx(found.metrics["HR@2"]["value"])
    assert [group["bucket"] for group in found.breakdown["history_length"]] == ["3-5"]


def test_history_length_is_that_of_the_log_not_of_the_cut_history(make_dataset, fixed_scores):
    dataset = make_dataset([[0, 1, 2, 3, 4, 5, 6], [1, 2, 3]], 8, max_history=2)
    found = evaluate_recommender(fixed_scores(range(8)), dataset, CONFIG, seed=0)
    groups = [(group["bucket"], group["num_examples"]) for group in found.breakdown["history_length"]]
    assert groups == [("1-2", 1), ("6-10", 1)]


def test_a_recommender_that_fills_no_slot_is_refused(dataset, fixed_scores):
    with pytest.raises(DataError, match="Fixed scores lists no allowed item for any of 4 examples"):
        evaluate_recommender(fixed_scores([-np.inf] * 6), dataset, CONFIG, seed=0)


def test_invalid_slots_are_counted_and_kept_out_of_the_list_metrics(dataset):
    class Careless:
        name = "Careless"

        def recommend(self, histories, k, exclude=None, allow=None):
            row = np.array([99, *range(5), *[-1] * k])[:k]  # an unknown item, then items seen or not
            return Recommendations(
                item_index=np.tile(row, (len(histories), 1)),
                score=np.tile(np.where(row >= 0, -np.arange(k, dtype=float), -np.inf), (len(histories), 1)),
                num_tied_beyond=np.zeros(len(histories), dtype=np.int64),
            )

    config = EvaluateConfig(cutoffs=(2,), num_bootstrap=10)
    metrics = evaluate_recommender(Careless(), dataset, config, seed=0).metrics
    assert metrics["Coverage@2"]["value"] == 1 / 6  # only item 0 is ever valid
    assert metrics["Invalid@2"]["value"] == pytest.approx(1 - 3 / 8)  # one user has seen item 0


def test_lists_with_nothing_allowed_on_top_have_no_gini_and_no_novelty_there(dataset, tmp_path):
    class Late:
        name = "Late"

        def recommend(self, histories, k, exclude=None, allow=None):
            row = np.array([99, *range(5), *[-1] * k])[:k]
            return Recommendations(
                item_index=np.tile(row, (len(histories), 1)),
                score=np.tile(np.where(row >= 0, -np.arange(k, dtype=float), -np.inf), (len(histories), 1)),
                num_tied_beyond=np.zeros(len(histories), dtype=np.int64),
            )

    evaluate_all([Late()], dataset, EvaluateConfig(cutoffs=(1, 2), num_bootstrap=10), tmp_path, 0)
    metrics = json.loads((tmp_path / "metrics.json").read_text())["recommenders"]["Late"]["metrics"]
    assert metrics["Gini@1"] == metrics["Novelty@1"] == {"value": None}
    assert metrics["Coverage@1"] == {"value": 0}
    assert metrics["Invalid@1"] == {"value": 1}
    assert metrics["Gini@2"] == {"value": pytest.approx(5 / 6)}


def test_the_files_say_what_was_returned(dataset, fixed_scores, tmp_path):
    best, worst = fixed_scores([6, 5, 4, 3, 2, 1], "Best one"), fixed_scores([1, 2, 3, 4, 5, 6], "Worst")
    config = EvaluateConfig(cutoffs=(1, 5), num_bootstrap=50)
    figures = evaluate_all(
        [best, worst], dataset, config, tmp_path, 3, facts={"Worst": RowFacts(fit_s=1.5, dtype="int8")}
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == figures
    assert figures["protocol"] == {
        "split": "test",
        "num_examples": 4,
        "num_users": 4,
        "num_candidates": 6,
        "exclude_history": True,
        "cutoffs": [1, 5],
        "ties": "expected",
        "confidence": 0.95,
        "num_bootstrap": 50,
        "num_latency_requests": 50,
        "num_cold_items": 0,
        "max_history": None,
        "rebuilt_histories": False,
        "histories_hash": evaluation_set(dataset, config, seed=3).histories_hash(),
        "seed": 3,
        "benchmark": "",
    }
    assert [figures["recommenders"][name]["fit_s"] for name in ("Best one", "Worst")] == [None, 1.5]
    assert [figures["recommenders"][name]["dtype"] for name in ("Best one", "Worst")] == [None, "int8"]
    assert all(entry["users_per_s"] > 0 for entry in figures["recommenders"].values())
    rows = pl.read_parquet(tmp_path / "rankings" / "best-one.parquet").rows(named=True)
    assert rows[2] == {
        "example_id": 12,
        "user_id": "u2",
        "target": 5,
        "num_better": 2,
        "num_tied": 1,
        "items": [0, 3, 5],
        "scores": [6.0, 3.0, 1.0],
    }


def test_the_first_is_compared_with_every_other(dataset, fixed_scores, tmp_path):
    recommenders = [fixed_scores(np.roll(np.arange(6.0), shift), f"r{shift}") for shift in range(3)]
    figures = evaluate_all(recommenders, dataset, CONFIG, tmp_path, 0)
    pairs = [(entry["a"], entry["b"], entry["metric"]) for entry in figures["comparisons"]]
    assert pairs == [("r0", other, label) for other in ("r1", "r2") for label in ("HR@2", "NDCG@2")]
    values = [figures["recommenders"][name]["metrics"]["HR@2"]["value"] for name in ("r0", "r1")]
    assert figures["comparisons"][0]["difference"] == pytest.approx(values[0] - values[1])
    files = [tmp_path / "rankings" / ranking_file_name(name) for name in ("r0", "r1")]
    assert compare_runs(*files, "HR@2").difference == pytest.approx(values[0] - values[1])


def test_references_are_compared_with_every_other_and_no_pair_twice(dataset, fixed_scores, tmp_path):
    recommenders = [fixed_scores(np.roll(np.arange(6.0), shift), f"r{shift}") for shift in range(3)]
    figures = evaluate_all(recommenders, dataset, CONFIG, tmp_path, 0, references=["r1", "r0"])
    pairs = [(entry["a"], entry["b"]) for entry in figures["comparisons"] if entry["metric"] == "NDCG@2"]
    assert pairs == [("r1", "r0"), ("r1", "r2"), ("r0", "r2")]
    with pytest.raises(ConfigError, match="reference 'r9': the recommenders are r0, r1, r2"):
        evaluate_all(recommenders, dataset, CONFIG, tmp_path, 0, references=["r9"])


def test_without_a_reference_the_best_is_compared_with_every_other(dataset, fixed_scores, tmp_path):
    scores = {"worst": [1, 2, 3, 4, 5, 6], "best": [6, 5, 4, 3, 2, 1], "level": [1] * 6}
    recommenders = [fixed_scores(values, name) for name, values in scores.items()]
    figures = evaluate_all(recommenders, dataset, CONFIG, tmp_path, 0, references=[])
    reached = {name: entry["metrics"]["NDCG@2"]["value"] for name, entry in figures["recommenders"].items()}
    assert max(reached, key=lambda name: reached[name]) == "best"
    assert {(entry["a"], entry["b"]) for entry in figures["comparisons"]} == {("best", "worst"), ("best", "level")}


def test_a_second_evaluation_equals_the_first_and_leaves_no_old_file(dataset, fixed_scores, tmp_path):
    def figures(*names: str) -> dict:
        found = evaluate_all([fixed_scores([6, 5, 4, 3, 2, 1], name) for name in names], dataset, CONFIG, tmp_path, 0)
        return {name: entry["metrics"] for name, entry in found["recommenders"].items()}

    assert figures("a", "b")["a"] == figures("a")["a"]
    assert [path.name for path in (tmp_path / "rankings").iterdir()] == ["a.parquet"]


def test_recommenders_need_names_that_give_different_files(dataset, fixed_scores, tmp_path):
    twins = [fixed_scores([1] * 6, "Item KNN"), fixed_scores([1] * 6, "item-knn")]
    with pytest.raises(ConfigError, match=r"two recommenders would write rankings/item-knn\.parquet"):
        evaluate_all(twins, dataset, CONFIG, tmp_path, 0)
    with pytest.raises(ConfigError, match="at least one recommender"):
        evaluate_all([], dataset, CONFIG, tmp_path, 0)


def test_diversity_is_measured_with_vectors_for_lists_of_two_and_more(dataset, fixed_scores):
    vectors = np.eye(6, dtype=np.float32)
    vectors[1] = vectors[0]
    recommender = fixed_scores([6, 5, 4, 3, 2, 1])
    metrics = evaluate_recommender(recommender, dataset, CONFIG, seed=0, vectors=vectors).metrics
    # Listed: 3 4 | 0 1 | 0 3 | 0 1, and 0 and 1 are alike.
    assert metrics["Diversity@2"] == {"value": pytest.approx(1 / 2)}
    assert "Diversity@1" not in metrics
    assert "Diversity@2" not in evaluate_recommender(recommender, dataset, CONFIG, seed=0).metrics
    with pytest.raises(DataError, match="expected a vector for each of 6 items, found 5"):
        evaluate_recommender(recommender, dataset, CONFIG, seed=0, vectors=vectors[:5])


def test_held_out_items_split_the_examples_in_two(dataset, fixed_scores):
    marked = dataset.items.with_columns(pl.col("item_index").is_in([0, 5]).alias("is_cold"))
    recommender = fixed_scores([6, 5, 4, 3, 2, 1])
    found = evaluate_recommender(recommender, replace(dataset, items=marked), CONFIG, seed=0).breakdown
    # Targets 3, 0, 5, 1 at ranks 1, 1, 3, 2.
    groups = {group["bucket"]: group for group in found["target_temperature"]}
    assert {name: group["num_examples"] for name, group in groups.items()} == {"cold": 2, "warm": 2}
    assert groups["cold"]["metrics"]["HR@2"]["value"] == 1 / 2
    assert groups["warm"]["metrics"]["HR@2"]["value"] == 1
    assert "target_temperature" not in evaluate_recommender(recommender, dataset, CONFIG, seed=0).breakdown
