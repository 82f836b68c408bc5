import numpy as np
import pytest

from itemic.core.calibration import Calibration
from itemic.core.errors import ArtifactError
from itemic.core.files import read_json, write_json

MADE_FOR = {"model": "abc", "catalog": "def"}


def curve() -> Calibration:
    return Calibration(
        stated=np.array([0.01, 0.1, 0.4]),
        actual=np.array([0.0, 0.05, 0.5]),
        made_for=MADE_FOR,
        figures={"before": {"ECE": 0.25}},
    )


def test_the_curve_by_hand() -> None:
    # 0.2 lies halfway between 0.1 and 0.4 on a logarithmic axis; nothing stays nothing.
    stated = np.array([[0.0, 0.001, 0.01], [0.2, 0.4, 1.0]])
    np.testing.assert_allclose(curve().apply(stated), [[0, 0, 0], [0.275, 0.5, 0.5]])


def test_a_file_comes_back_as_it_was(tmp_path) -> None:
    curve().save(tmp_path / "calibration.json")
    again = Calibration.load(tmp_path / "calibration.json", MADE_FOR)
    np.testing.assert_array_equal(again.stated, curve().stated)
    np.testing.assert_array_equal(again.actual, curve().actual)
    assert again.made_for == MADE_FOR
    assert again.figures == curve().figures


def test_a_stale_or_damaged_file_is_refused(tmp_path) -> None:
    path = tmp_path / "calibration.json"
    with pytest.raises(ArtifactError, match="no such file"):
        Calibration.load(path, MADE_FOR)
    curve().save(path)
    with pytest.raises(ArtifactError, match="fitted with model 'abc', this run has 'new'; run itemic calibrate again"):
        Calibration.load(path, {**MADE_FOR, "model": "new"})
    content = read_json(path)
    for damage in ({"stated": [0.1, 0.01, 0.4]}, {"actual": [0.5]}, {"stated": []}, {"actual": [0, 0.1, 1.5]}):
        write_json(path, {**content, **damage})
        with pytest.raises(ArtifactError, match="no rising curve"):
            Calibration.load(path, MADE_FOR)
    write_json(path, {key: value for key, value in content.items() if key != "actual"})
    with pytest.raises(ArtifactError, match="missing or damaged entry 'actual'"):
        Calibration.load(path, MADE_FOR)
    write_json(path, {**content, "stated": ["a"]})
    with pytest.raises(ArtifactError, match="missing or damaged entry"):
        Calibration.load(path, MADE_FOR)
