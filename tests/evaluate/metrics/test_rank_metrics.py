"""Hit rate, recall, NDCG and MRR: hand-worked values, random orders of ties, and torchmetrics."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG, RetrievalRecall

from itemic.core.errors import ConfigError
from itemic.evaluate.metrics import RANK_METRICS, hit_rate, mrr, ndcg, parse_label, rank_metric, recall


def ranks(*pairs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([b for b, _ in pairs], dtype=np.int64), np.array([t for _, t in pairs], dtype=np.int64)


def test_without_ties_the_rank_alone_counts():
    counts = ranks((0, 1), (2, 1), (3, 1), (10, 1))
    assert hit_rate(*counts, 3).tolist() == [1, 1, 0, 0]
    assert mrr(*counts, 3) == pytest.approx([1, float(Fraction(1, 3)), 0, 0])
    assert ndcg(*counts, 3) == pytest.approx([1, float(Fraction(1, 2)), 0, 0])  # 1 / log2(4)
    assert recall(*counts, 3).tolist() == [1, 1, 0, 0]


def test_a_tie_pays_the_mean_over_its_ranks():
    counts = ranks((1, 4))  # ranks 2, 3, 4 or 5, each with probability 1/4
    assert hit_rate(*counts, 3) == pytest.approx([float(Fraction(2, 4))])
    assert mrr(*counts, 3) == pytest.approx([float((Fraction(1, 2) + Fraction(1, 3)) / 4)])
    assert ndcg(*counts, 3) == pytest.approx([(1 / np.log2(3) + 1 / 2) / 4])


def test_a_target_that_is_not_listed_is_worth_nothing():
    counts = ranks((0, 0), (2, 0), (50, 0))
    for metric in RANK_METRICS.values():
        assert metric(*counts, 10).tolist() == [0, 0, 0]


def test_recall_divides_by_the_number_of_targets():
    counts = ranks((0, 1), (1, 1), (9, 1), (0, 2), (5, 0))
    owner = np.array([0, 0, 0, 1, 1])
    expected = [Fraction(2, 3), Fraction(1, 2) / 2]  # a hit in the tie of two has probability 1/2 at K = 1 ...
    assert recall(*counts, 2, owner) == pytest.approx([float(expected[0]), 1 / 2])
    assert recall(*counts, 1, owner) == pytest.approx([1 / 3, float(expected[1])])


@given(
    scores=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    target=st.integers(0, 5),
    cutoff=st.integers(1, 7),
)
def test_expectation_equals_the_mean_over_all_orders_of_equal_scores(scores, target, cutoff):
    target %= len(scores)
    num_better = sum(score > scores[target] for score in scores)
    num_tied = scores.count(scores[target])
    ties = itertools.permutations(range(num_tied))
    places = [num_better + 1 + order.index(0) for order in ties]
    gains = {
        "HR": lambda rank: 1.0,
        "Recall": lambda rank: 1.0,
        "NDCG": lambda rank: 1 / np.log2(rank + 1),
        "MRR": lambda rank: 1 / rank,
    }
    for name, gain in gains.items():
        brute_force = np.mean([gain(rank) if rank <= cutoff else 0 for rank in places])
        assert RANK_METRICS[name](*ranks((num_better, num_tied)), cutoff) == pytest.approx([brute_force])


@pytest.mark.parametrize("cutoff", [1, 3, 10])
def test_values_equal_torchmetrics(cutoff):
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(20.0), (40, 1)), axis=1)
    target = rng.integers(0, 20, size=40)
    num_better = (scores > scores[np.arange(40), target][:, None]).sum(axis=1)
    num_tied = np.ones(40, dtype=np.int64)
    flat = (
        torch.from_numpy(scores).float().flatten(),
        torch.from_numpy(target[:, None] == np.arange(20)).flatten(),
        torch.arange(40).repeat_interleave(20),
    )
    references = {
        "HR": RetrievalHitRate(top_k=cutoff),
        "Recall": RetrievalRecall(top_k=cutoff),
        "NDCG": RetrievalNormalizedDCG(top_k=cutoff),
        "MRR": RetrievalMRR(top_k=cutoff),
    }
    for name, reference in references.items():
        expected = float(reference(flat[0], flat[1], indexes=flat[2]))
        assert RANK_METRICS[name](num_better, num_tied, cutoff).mean() == pytest.approx(expected, abs=1e-6)


def test_labels_name_metric_and_cutoff():
    assert parse_label("NDCG@10") == ("NDCG", 10)
    assert rank_metric("HR@2", *ranks((1, 1))).tolist() == [1]


@pytest.mark.parametrize("label", ["NDCG", "ndcg@10", "Foo@10", "HR@0", "HR@ten", "HR@-1", ""])
def test_a_label_that_is_none_is_refused(label):
    with pytest.raises(ConfigError, match="expected one of HR, Recall, NDCG, MRR"):
        parse_label(label)
