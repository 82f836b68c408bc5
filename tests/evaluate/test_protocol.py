"""Which examples are ranked, which items are candidates, and ties across the cut."""

import logging
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itemic.core.config import config_from_mapping, config_to_mapping
from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Recommendations
from itemic.evaluate import EvaluateConfig, evaluation_set, rank_examples

SEQUENCES = [[0, 1, 2, 3], [4, 5, 3, 0], [2, 4, 1, 5]]


def test_the_split_and_the_training_counts(make_dataset):
    dataset = make_dataset(SEQUENCES, 6)
    cases = evaluation_set(dataset, EvaluateConfig(split="valid"), seed=0)
    assert cases.target.tolist() == [2, 3, 1]
    assert cases.histories(np.array([2, 0])) == [[2, 4], [0, 1]]
    assert cases.train_counts.tolist() == [1, 1, 1, 0, 2, 1]


def test_seen_items_are_excluded_where_the_dataset_has_no_repeats(make_dataset):
    rows = np.array([0])
    without, with_repeats = (make_dataset(SEQUENCES, 6, repeats=repeats) for repeats in (False, True))
    assert evaluation_set(without, EvaluateConfig(), seed=0).excluded(rows) == [[0, 1, 2]]
    assert evaluation_set(with_repeats, EvaluateConfig(), seed=0).excluded(rows) is None
    forced = EvaluateConfig(exclude_history=True), EvaluateConfig(exclude_history=False)
    assert evaluation_set(with_repeats, forced[0], seed=0).excluded(rows) == [[0, 1, 2]]
    assert evaluation_set(without, forced[1], seed=0).excluded(rows) is None


def test_targets_lost_to_the_exclusion_are_told(make_dataset, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("itemic"), "propagate", True)
    dataset = make_dataset([[0, 1, 2, 0], [1, 2, 3, 0]], 4, repeats=True)
    evaluation_set(dataset, EvaluateConfig(exclude_history=True), seed=0)
    assert "1 of 2 targets are seen items" in caplog.text


def test_a_subset_is_drawn_by_the_seed(make_dataset):
    dataset = make_dataset([[0, 1, 2, 3]] * 50, 4)
    config = EvaluateConfig(max_examples=5)
    users = [evaluation_set(dataset, config, seed=seed).examples["user_id"].to_list() for seed in (0, 0, 1)]
    assert users[0] == users[1] != users[2]
    assert [len(set(drawn)) for drawn in users] == [5, 5, 5]


def test_sets_with_the_same_histories_share_their_hash(make_dataset):
    dataset = make_dataset(SEQUENCES, 6)

    def hashed(histories: list[list[int]]) -> str:
        rows = dataset.test.with_columns(pl.Series("history", histories, dtype=pl.List(pl.Int64)))
        return evaluation_set(replace(dataset, test=rows), EvaluateConfig(), seed=0).histories_hash()

    assert hashed([[1], [2, 3], []]) == hashed([[1], [2, 3], []])
    others = [[[1], [2, 3], []], [[1, 2], [3], []], [[1], [], [2, 3]], [[1], [3, 2], []], [[], [], []]]
    assert len(set(map(hashed, others))) == len(others)


def test_an_empty_split_is_refused(make_dataset):
    with pytest.raises(DataError, match="the test split has no examples"):
        evaluation_set(make_dataset([], 3), EvaluateConfig(), seed=0)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batches_change_nothing(make_dataset, fixed_scores, batch_size):
    cases = evaluation_set(make_dataset(SEQUENCES, 6), EvaluateConfig(), seed=0)
    lists = rank_examples(fixed_scores([6, 5, 4, 3, 2, 1]), cases, 3, batch_size)
    assert lists.item_index.tolist() == [[3, 4, 5], [0, 1, 2], [0, 3, 5]]
    assert lists.ranks.num_better.tolist() == [0, 0, 2]
    assert lists.num_allowed.tolist() == [3, 3, 3]
    assert lists.valid.all()


def test_a_tie_across_the_cut_is_decided_by_a_longer_list(make_dataset, fixed_scores):
    cases = evaluation_set(make_dataset([[0, 1, 2, 9], [0, 1, 2, 3]], 12), EvaluateConfig(), seed=0)
    recommender = fixed_scores([0] * 12)
    lists = rank_examples(recommender, cases, 2, 256)
    assert recommender.lengths == [2, 9]
    assert lists.ranks.num_better.tolist() == [0, 0]
    assert lists.ranks.num_tied.tolist() == [9, 9]
    assert lists.item_index.shape == (2, 2)


def test_a_longer_list_decides_a_tie_but_finds_nothing_that_was_missed(make_dataset):
    class Deeper:
        """Finds item 9 only when asked for more than two items; items 3, 4 and 5 are level."""

        name = "Deeper"

        def recommend(self, histories, k, exclude=None, allow=None):
            items, scores = ([3, 4], [1.0, 1.0]) if k == 2 else ([9, 3, 4, 5], [2.0, 1.0, 1.0, 1.0])
            items, scores = (items + [-1] * k)[:k], (scores + [-np.inf] * k)[:k]
            return Recommendations(
                item_index=np.tile(np.array(items), (len(histories), 1)),
                score=np.tile(np.array(scores), (len(histories), 1)),
                num_tied_beyond=np.full(len(histories), 2 if k == 2 else 0),
            )

    cases = evaluation_set(make_dataset([[0, 1, 2, 9], [0, 1, 2, 5], [0, 1, 2, 4]], 12), EvaluateConfig(), seed=0)
    ranks = rank_examples(Deeper(), cases, 2, 256).ranks
    assert ranks.num_better.tolist() == [2, 0, 0]
    assert ranks.num_tied.tolist() == [0, 4, 4]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scores=st.lists(st.integers(0, 2), min_size=8, max_size=8), k=st.integers(1, 9))
def test_every_rank_within_the_list_is_the_rank_among_all_scores(make_dataset, fixed_scores, scores, k):
    cases = evaluation_set(make_dataset([[0, 1, 2, 5], [3, 4, 1, 7]], 8), EvaluateConfig(), seed=0)
    ranks = rank_examples(fixed_scores(scores), cases, k, 256).ranks
    for row, (seen, target) in enumerate([({0, 1, 2}, 5), ({3, 4, 1}, 7)]):
        rivals = [score for item, score in enumerate(scores) if item not in seen]
        num_better = sum(score > scores[target] for score in rivals)
        if num_better < k:
            found = (ranks.num_better[row], ranks.num_tied[row])
            assert found == (num_better, rivals.count(scores[target]))
        else:
            assert ranks.num_better[row] >= k


def test_a_recommender_that_breaks_its_contract_is_named(make_dataset):
    class Rising:
        name = "Rising"

        def recommend(self, histories, k, exclude=None, allow=None):
            items = np.tile(np.arange(k), (len(histories), 1))
            return Recommendations(
                item_index=items, score=items.astype(float), num_tied_beyond=np.zeros(len(histories), dtype=np.int64)
            )

    cases = evaluation_set(make_dataset(SEQUENCES, 6), EvaluateConfig(), seed=0)
    with pytest.raises(DataError, match="Rising: row 0 has a score that rises"):
        rank_examples(Rising(), cases, 3, 2)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"cutoffs": []}, "different numbers from 1 up"),
        ({"cutoffs": [5, 1]}, "different numbers from 1 up"),
        ({"cutoffs": [0, 1]}, "different numbers from 1 up"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
        ({"num_bootstrap": 0}, "num_bootstrap must be at least 1"),
        ({"max_examples": -1}, "max_examples must be at least 0"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"split": "train"}, "split"),
        ({"exclude_history": "maybe"}, "exclude_history"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused(values, problem):
    with pytest.raises(ConfigError, match=problem):
        config_from_mapping(EvaluateConfig, values)


def test_a_config_survives_plain_values():
    config = EvaluateConfig(cutoffs=(2, 4), exclude_history=False)
    assert config_from_mapping(EvaluateConfig, config_to_mapping(config)) == config
    assert (config.headline_cutoff, EvaluateConfig().headline_cutoff) == (4, 10)


def test_the_examples_keep_their_columns(make_dataset):
    cases = evaluation_set(make_dataset(SEQUENCES, 6), EvaluateConfig(), seed=0)
    assert cases.examples.schema["history"] == pl.List(pl.Int64)
