import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from itemic.core.errors import ArtifactError, ConfigError
from itemic.user_table.parts import PartFolder

SCHEMA = pa.schema([("x", pa.int64())])


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[PartFolder]:
    folder = PartFolder(tmp_path / "out.parquet")
    with folder.hold():
        yield folder


def rows(*values: int) -> pa.Table:
    return pa.table({"x": list(values)}, schema=SCHEMA)


def test_parts_are_put_together_in_order_and_leave_nothing(parts: PartFolder, tmp_path: Path) -> None:
    parts.open({"k": 1}, {})
    parts.write(1, rows(3), {"num_users": 1})
    parts.write(0, rows(1, 2), {"num_users": 2})
    assert parts.figures(0) == {"num_users": 2}
    assert parts.figures(2) is None
    parts.assemble(2, SCHEMA)
    assert pq.read_table(tmp_path / "out.parquet")["x"].to_pylist() == [1, 2, 3]
    assert [each.name for each in tmp_path.iterdir()] == ["out.parquet"]


def test_a_table_of_nobody_has_its_columns(parts: PartFolder, tmp_path: Path) -> None:
    parts.open({}, {})
    parts.assemble(0, SCHEMA)
    assert pq.read_table(tmp_path / "out.parquet").schema == SCHEMA


def test_the_same_making_goes_on_as_it_was_begun(parts: PartFolder) -> None:
    identity = {"k": 1, "sizes": (2, 3)}
    assert parts.open(identity, {"now": "1 o'clock"}) == {"now": "1 o'clock"}
    parts.write(0, rows(1), {"num_users": 1})
    parts.write_survey({"num_users": 4})
    assert parts.open(identity, {"now": "2 o'clock"}) == {"now": "1 o'clock"}
    assert parts.figures(0) == {"num_users": 1}
    assert parts.survey() == {"num_users": 4}
    assert parts.open(identity, {"now": "3 o'clock"}, restart=True) == {"now": "3 o'clock"}
    assert (parts.figures(0), parts.survey()) == (None, None)


def test_finished_parts_of_another_making_are_dropped_only_when_told(
    parts: PartFolder, caplog: pytest.LogCaptureFixture
) -> None:
    parts.open({"k": 1}, {})
    parts.write_survey({"num_users": 4})
    with caplog.at_level(logging.WARNING, logger="itemic"):
        parts.open({"k": 2}, {})
    assert "begun otherwise (k was 1, is 2): starts over" in caplog.text
    assert parts.survey() is None
    parts.write(0, rows(1), {"num_users": 1200})
    parts.write(1, rows(1), {"num_users": 34})
    with pytest.raises(ConfigError, match=r"1,234 users are done, but begun otherwise: k was 2, is 3.*--restart"):
        parts.open({"k": 3}, {})
    assert parts.figures(1) == {"num_users": 34}
    (parts.folder / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="1,234 users are done"):
        parts.open({"k": 2}, {})
    parts.open({"k": 3}, {}, restart=True)
    assert parts.figures(0) is None


def test_a_damaged_part_is_made_again(parts: PartFolder) -> None:
    parts.open({}, {})
    parts.write(0, rows(1), {"num_users": 1})
    next(parts.folder.glob("0*.parquet")).write_bytes(b"PAR1")
    assert parts.figures(0) is None


def test_a_second_process_is_refused_until_the_first_is_done(parts: PartFolder) -> None:
    parts.open({}, {})
    with pytest.raises(ConfigError, match=r"out.parquet: another process is writing it"), parts.hold():
        pass
    parts.write(0, rows(1), {"num_users": 1})
    parts.assemble(1, SCHEMA)
    with parts.hold():
        parts.open({}, {})
        assert parts.figures(0) is None


def test_a_folder_that_was_removed_is_not_made_again_by_a_part(parts: PartFolder) -> None:
    parts.open({}, {})
    shutil.rmtree(parts.folder)
    with pytest.raises(ArtifactError, match="was removed while the table was being made"):
        parts.write(0, rows(1), {"num_users": 1})
    with pytest.raises(ArtifactError, match="was removed"):
        parts.write_survey({"num_users": 1})
    assert not parts.folder.exists()


def test_of_many_at_once_one_gets_the_lock_though_the_folder_comes_and_goes(tmp_path: Path) -> None:
    inside, most, refused = [0], [0], [0]

    def work() -> None:
        folder = PartFolder(tmp_path / "out.parquet")
        for _ in range(40):
            try:
                with folder.hold():
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    folder.open({}, {})
                    folder.write(0, rows(1), {"num_users": 1})
                    inside[0] -= 1
                    folder.assemble(1, SCHEMA)
            except ConfigError:
                refused[0] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert refused[0] < 160
    assert [each.name for each in tmp_path.iterdir()] == ["out.parquet"]
