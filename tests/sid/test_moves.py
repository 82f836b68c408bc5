import numpy as np
import pytest

from itemic.core.errors import ArtifactError
from itemic.sid.moves import read_codes_before, write_moves


def test_codes_before_come_back(tmp_path):
    before, after = np.array([[0, 1], [0, 1], [2, 2]]), np.array([[0, 1], [0, 3], [2, 2]])
    write_moves(tmp_path, before, after)
    assert read_codes_before(tmp_path, after, 2).tolist() == before.tolist()
    grown = np.concatenate([after, [[5, 5]]])
    assert read_codes_before(tmp_path, grown, 2).tolist() == [*before.tolist(), [5, 5]]


def test_a_level_more_is_no_move(tmp_path):
    before, after = np.array([[0, 1], [0, 1]]), np.array([[0, 1, 0], [0, 1, 1]])
    write_moves(tmp_path, before, after)
    assert read_codes_before(tmp_path, after, 2).tolist() == before.tolist()


def test_a_catalog_without_the_file_does_not_say_and_a_wrong_one_raises(tmp_path):
    codes = np.array([[0, 1], [0, 2]])
    assert read_codes_before(tmp_path, codes, 2) is None
    write_moves(tmp_path, np.array([[0, 1], [0, 1]]), codes)
    with pytest.raises(ArtifactError, match="made for another catalog"):
        read_codes_before(tmp_path, codes[:1], 2)
