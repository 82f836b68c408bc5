"""Means over seeds and paired differences, by hand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from itemic.core.errors import ArtifactError
from itemic.studies.values import ExampleValues, compare_values, mean_values, read_values

SETTINGS = {"num_resamples": 200, "confidence": 0.95, "seed": 0}


def values(rows: list[list[float]], owner: list[int] | None = None) -> ExampleValues:
    size = len(rows[0])
    return ExampleValues(
        example_id=np.arange(size),
        owner=np.array(owner or range(size)),
        target=np.zeros(size, dtype=np.int64),
        values=np.array(rows),
    )


def write(path: Path, num_better: list[int], target: int = 3) -> Path:
    size = len(num_better)
    columns = {
        "example_id": list(range(size))[::-1],
        "user_id": [f"u{index}" for index in range(size)],
        "target": [target] * size,
        "num_better": num_better,
        "num_tied": [1] * size,
    }
    pl.DataFrame(columns).write_parquet(path)
    return path


def test_seeds_are_averaged_example_by_example() -> None:
    mean = mean_values(values([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]]), **SETTINGS)
    assert mean.value == 5 / 8
    assert mean.by_seed == (2 / 4, 3 / 4)
    assert mean.spread == pytest.approx(np.sqrt(2) / 8)
    assert mean.low <= mean.value <= mean.high
    assert mean_values(values([[1.0, 0.0]]), **SETTINGS).spread is None


def test_a_difference_is_paired_and_other_examples_are_not() -> None:
    base = values([[0.0] * 20])
    better = compare_values(base, values([[1.0] * 20]), **SETTINGS)
    assert better is not None
    assert (better.value, better.low, better.high) == (1.0, 1.0, 1.0)
    assert better.p_value == 1 / 201
    same = compare_values(base, base, **SETTINGS)
    assert same is not None
    assert same.p_value == 1.0
    assert compare_values(base, values([[1.0] * 19]), **SETTINGS) is None
    assert compare_values(base, values([[1.0] * 20], owner=[0] * 20), **SETTINGS) is None


def test_ranking_files_are_read_in_the_order_of_their_examples(tmp_path: Path) -> None:
    found = read_values([write(tmp_path / "a.parquet", [0, 1]), write(tmp_path / "b.parquet", [5, 0])], "HR@1")
    np.testing.assert_array_equal(found.values, [[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(ArtifactError, match="other examples or targets"):
        read_values([tmp_path / "a.parquet", write(tmp_path / "c.parquet", [0, 0], target=4)], "HR@1")
    with pytest.raises(ArtifactError, match="no such recommender"):
        read_values([tmp_path / "nothing.parquet"], "HR@1")
