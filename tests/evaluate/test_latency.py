"""Latency under a clock that only the recommender moves."""

import numpy as np
import pytest

from itemic.core.ranking import top_k
from itemic.evaluate import EvaluateConfig, evaluate_all, evaluation_set
from itemic.evaluate.latency import measure_latency

SEQUENCES = [[0, 1, 2, 3], [4, 5, 3, 0], [2, 4, 1, 5], [5, 3, 4, 1]]


class Clocked:
    """Takes the given seconds for one request after the other and remembers what it was asked."""

    name = "Clocked"

    def __init__(self, seconds):
        self.seconds, self.now, self.asked = list(seconds), 0.0, []

    def recommend(self, histories, k, exclude=None, allow=None):
        self.asked.append((histories, k, exclude))
        self.now += self.seconds[len(self.asked) - 1]
        return top_k(np.zeros((len(histories), 6)), k, exclude, allow)


@pytest.fixture
def cases(make_dataset):
    return evaluation_set(make_dataset(SEQUENCES, 6), EvaluateConfig(), seed=0)


def test_percentiles_of_the_requests_behind_the_warm_up(cases):
    # Three to warm up, then 1, 2, 3, 4, 5 ms: the median is 3, the 95th percentile 4/5 of the way from 4 to 5.
    recommender = Clocked([9, 9, 9, 0.005, 0.001, 0.003, 0.002, 0.004])
    found = measure_latency(recommender, cases, 5, num_requests=5, seed=0, clock=lambda: recommender.now)
    assert found == {"p50": 3.0, "p95": pytest.approx(4.8)}
    assert len(recommender.asked) == 8
    assert all(len(histories) == 1 and k == 5 for histories, k, _ in recommender.asked)


def test_every_recommender_answers_the_same_users_and_excludes_what_they_have_seen(cases):
    first, second = Clocked([1] * 6), Clocked([2] * 6)
    for recommender in (first, second):
        measure_latency(recommender, cases, 2, num_requests=3, seed=7)
    assert first.asked == second.asked
    assert all(set(histories[0]) <= set(exclude[0]) for histories, _, exclude in first.asked)


def test_no_request_measures_nothing(cases):
    recommender = Clocked([])
    assert measure_latency(recommender, cases, 2, num_requests=0, seed=0) is None
    assert recommender.asked == []


def test_metrics_json_has_it_for_every_recommender(make_dataset, fixed_scores, tmp_path):
    dataset = make_dataset(SEQUENCES, 6)
    for num_requests in (4, 0):
        config = EvaluateConfig(cutoffs=(2,), num_bootstrap=10, num_latency_requests=num_requests)
        figures = evaluate_all([fixed_scores([6, 5, 4, 3, 2, 1])], dataset, config, tmp_path, 0)
        found = figures["recommenders"]["Fixed scores"]["latency_ms"]
        assert found is None if num_requests == 0 else 0 <= found["p50"] <= found["p95"]
