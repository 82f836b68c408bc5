import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from itemic.user_table.parts import PartFolder

SCHEMA = pa.schema([("x", pa.int64())])


def rows(*values: int) -> pa.Table:
    return pa.table({"x": list(values)}, schema=SCHEMA)


def test_parts_are_put_together_in_order_and_leave_nothing(tmp_path: Path) -> None:
    parts = PartFolder(tmp_path / "out.parquet")
    parts.open({"k": 1})
    parts.write(1, rows(3), {"users": 1})
    parts.write(0, rows(1, 2), {"users": 2})
    assert parts.figures(0) == {"users": 2}
    assert parts.figures(2) is None
    parts.assemble(2, SCHEMA)
    assert pq.read_table(tmp_path / "out.parquet")["x"].to_pylist() == [1, 2, 3]
    assert [each.name for each in tmp_path.iterdir()] == ["out.parquet"]


def test_a_table_of_nobody_has_its_columns(tmp_path: Path) -> None:
    parts = PartFolder(tmp_path / "out.parquet")
    parts.open({})
    parts.assemble(0, SCHEMA)
    assert pq.read_table(tmp_path / "out.parquet").schema == SCHEMA


def test_the_same_making_goes_on_and_another_one_starts_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = PartFolder(tmp_path / "out.parquet")
    parts.open({"k": 1, "sizes": (2, 3)})
    parts.write(0, rows(1), {})
    parts.write_survey({"num_users": 4})
    with caplog.at_level(logging.WARNING, logger="itemic"):
        parts.open({"k": 1, "sizes": (2, 3)})
        assert parts.figures(0) == {}
        assert parts.survey() == {"num_users": 4}
        assert not caplog.records
        parts.open({"k": 2, "sizes": (2, 3)})
    assert "k was 1, is 2" in caplog.text
    assert "starts over" in caplog.text
    assert parts.figures(0) is None
    assert parts.survey() is None


def test_a_damaged_part_is_made_again(tmp_path: Path) -> None:
    parts = PartFolder(tmp_path / "out.parquet")
    parts.open({})
    parts.write(0, rows(1), {})
    next(parts.folder.glob("0*.parquet")).write_bytes(b"PAR1")
    assert parts.figures(0) is None
