import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from itemic.core.errors import ArtifactError
from itemic.core.files import (
    atomic_folder,
    atomic_path,
    file_hash,
    map_array,
    path_hash,
    read_json,
    text_hash,
    write_arrays,
    write_json,
    write_rows,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "b").write_text("2")
        raise RuntimeError
    with atomic_folder(target) as temporary:
        (temporary / "c").write_text("3")
    assert [path.name for path in target.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_killed_write_never_shows_half_a_file(tmp_path: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path; from itemic.core.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "a.json"
    outcome = subprocess.run([sys.executable, "-c", program, str(target)], env=os.environ, check=False)
    assert outcome.returncode == -signal.SIGKILL
    assert not target.exists()


def test_hashes_see_contents_and_names_but_not_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = path_hash(tmp_path)
    (tmp_path / ".hidden").write_text("2")
    assert path_hash(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert path_hash(tmp_path) != first
    assert path_hash(tmp_path / "b") == file_hash(tmp_path / "b")
    assert text_hash("ab", "c") != text_hash("a", "bc")
    with pytest.raises(ArtifactError, match="no such file or folder"):
        path_hash(tmp_path / "nothing")


def test_json_and_arrays(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert read_json(tmp_path / "a.json") == {"é": [1, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        read_json(tmp_path / "c.json")
    with pytest.raises(ArtifactError, match="no such file"):
        read_json(tmp_path / "d.json")
    write_arrays(tmp_path / "x.safetensors", {"x": np.arange(6).reshape(2, 3).T}, {"made": "here"})
    from safetensors.numpy import load_file

    assert load_file(tmp_path / "x.safetensors")["x"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_mapped_array_is_the_array_of_that_name(tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3),
        "b": np.arange(4, dtype=np.float32),
        "c": np.array([[1.5]]),
        "d": np.array([-7, 2**40]),
    }
    write_arrays(path, arrays, {"about": "é" * 5})
    for name, array in arrays.items():
        mapped = map_array(path, name)
        assert isinstance(mapped, np.memmap)
        assert mapped.dtype == array.dtype
        np.testing.assert_array_equal(mapped, array)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1


def test_arrays_that_cannot_be_mapped_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(ArtifactError, match="no such file"):
        map_array(path, "a")
    write_arrays(path, {"a": np.zeros((40, 3))})
    with pytest.raises(ArtifactError, match="has no 'b'"):
        map_array(path, "b")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="damaged"):
        map_array(path, "a")


def test_rows_written_in_blocks_are_the_array(tmp_path):
    path = tmp_path / "x.safetensors"
    x = np.arange(12, dtype=np.float16).reshape(4, 3)
    write_rows(path, "x", (4, 3), (x[:1], x[1:]), {"about": "é"})
    np.testing.assert_array_equal(map_array(path, "x"), x)
    with safe_open(path, framework="np") as stored:
        assert stored.metadata() == {"about": "é"}
        assert stored.get_tensor("x").dtype == np.float32
    with pytest.raises(AssertionError, match="make up shape"):
        write_rows(path, "x", (5, 3), (x,))
    np.testing.assert_array_equal(map_array(path, "x"), x)
