from pathlib import Path
from typing import Any

import pytest

from itemic.core.errors import ArtifactError
from itemic.core.run import Run, StageResult


class Work:
    def __init__(self, run: Run) -> None:
        self.run, self.calls = run, 0

    def __call__(self) -> dict[str, Any]:
        self.calls += 1
        self.run.path("out.txt").write_text("made")
        return {"calls": self.calls}

    def stage(self, source: Path, **changes: Any) -> StageResult:
        settings: dict[str, Any] = {"config": {"a": 1}, "seed": 0, "force": False} | changes
        return self.run.stage("work", self, inputs={"source": source}, outputs=["out.txt"], **settings)


def test_a_stage_runs_again_only_when_something_changed(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("1")
    work = Work(Run(tmp_path / "run"))
    assert not work.stage(source).skipped
    again = work.stage(source)
    assert again.skipped
    assert again.metrics == {"calls": 1}
    for number, change in enumerate(({"config": {"a": 2}}, {"seed": 1}, {"force": True}), start=2):
        assert not work.stage(source, **change).skipped
        assert work.calls == number
    source.write_text("2")
    assert not work.stage(source).skipped
    work.run.path("out.txt").write_text("touched by someone")
    assert not work.stage(source).skipped
    work.run.path("out.txt").unlink()
    assert not work.stage(source).skipped


def test_the_manifest_says_what_made_it(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("1")
    work = Work(Run(tmp_path / "run"))
    work.stage(source, seed=7)
    entry = work.run.manifest()["stages"]["work"]
    assert entry["config"] == {"a": 1}
    assert entry["seed"] == 7
    assert set(entry["inputs"]) == {"source"}
    assert set(entry["outputs"]) == {"out.txt"}
    assert "torch" in entry["versions"]
    assert entry["wall_time_s"] >= 0
    assert entry["cpu_time_s"] >= 0


def test_a_failed_stage_leaves_no_entry(tmp_path: Path) -> None:
    run = Run(tmp_path)

    def fail() -> dict[str, Any]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run.stage("bad", fail, config={}, inputs={}, outputs=[], seed=0)
    assert run.manifest() == {"stages": {}}
    with pytest.raises(ArtifactError, match="missing; run itemic prepare first"):
        run.require("dataset", "prepare")


def test_a_folder_may_be_given_as_text(tmp_path):
    assert Run(str(tmp_path)) == Run(tmp_path)
    assert Run(str(tmp_path)).path("model") == tmp_path / "model"
