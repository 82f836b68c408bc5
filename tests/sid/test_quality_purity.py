import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from itemic.sid.quality import prefix_purity
from itemic.sid.quality.prefixes import prefix_ids

RNG = np.random.default_rng


def purity(codes, labels, num_shuffles=200):
    return prefix_purity(prefix_ids(np.array(codes)), labels, num_shuffles, RNG(0))


def test_purity_by_hand():
    figures = purity([[0], [0], [0], [1]], ["pump", "pump", "tape", "tape"])
    assert (figures["num_items"], figures["num_labels"]) == (4, 2)
    (level,) = figures["levels"]
    assert level["purity"] == 3 / 4
    # However the labels are dealt, the group of three has two of one kind and the single item is pure.
    assert level["chance"] == 3 / 4
    assert level["adjusted"] == 0


def test_pure_prefixes_are_one_and_random_ones_nothing():
    labels = [f"brand {row % 5}" for row in range(100)]
    pure = purity([[row % 5] for row in range(100)], labels)["levels"][0]
    assert pure["purity"] == pure["adjusted"] == pytest.approx(1)
    assert pure["adjusted_mutual_information"] == pytest.approx(1)
    mixed = purity(RNG(1).integers(0, 5, size=(100, 1)), labels)["levels"][0]
    assert mixed["purity"] > 1 / 5
    assert abs(mixed["adjusted"]) < 0.1


def test_unique_codes_are_pure_by_chance():
    level = purity([[0, 0], [0, 1], [1, 0]], ["a", "b", "a"])["levels"][1]
    assert (level["purity"], level["chance"], level["adjusted"]) == (1, 1, None)


def test_an_item_with_several_labels_counts_if_it_carries_the_prefix_s():
    labels = [("noir", "war"), ("war",), ("noir",), ("comedy", "war")]
    assert purity([[0], [0], [0], [0]], labels)["levels"][0]["purity"] == 3 / 4
    assert purity([[0], [0], [1], [1]], labels)["levels"][0]["purity"] == (2 + 1) / 4


def test_items_without_a_label_are_left_out():
    figures = purity([[0], [0], [1], [1]], ["a", None, "", ()])
    assert (figures["num_items"], figures["num_labels"]) == (1, 1)
    assert purity([[0], [1]], [None, ""]) == {"num_items": 0, "num_labels": 0, "levels": []}


def test_mutual_information_is_that_of_scikit_learn():
    rng = RNG(3)
    labels = rng.integers(0, 4, size=300)
    codes = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 12, size=300))[:, None]
    level = purity(codes, [str(label) for label in labels])["levels"][0]
    expected = adjusted_mutual_info_score(labels, codes[:, 0])
    assert level["adjusted_mutual_information"] == pytest.approx(expected, abs=0.01)
