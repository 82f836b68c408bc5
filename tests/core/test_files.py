import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from itemic.core.errors import ArtifactError
from itemic.core.files import (
    atomic_folder,
    atomic_path,
    file_hash,
    path_hash,
    read_json,
    text_hash,
    write_arrays,
    write_json,
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
