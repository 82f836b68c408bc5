import json
import shutil
from pathlib import Path

import pytest

from itemic.core.errors import ArtifactError
from itemic.core.run import Run
from itemic.evaluate.report.artifacts import read_artifacts, read_training_log


def test_a_whole_run_is_read(whole_run: Run) -> None:
    artifacts = read_artifacts(whole_run)
    assert list(artifacts.stages) == ["prepare", "embed", "tokenize", "sft", "evaluate"]
    assert set(artifacts.rankings) == set(artifacts.metrics["recommenders"])
    assert artifacts.model.num_parameters == 27 * 128
    assert artifacts.dataset.num_items == len(artifacts.catalog) == artifacts.quality["num_items"]


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    artifacts = read_artifacts(Run(tmp_path))
    assert artifacts.dataset is artifacts.catalog is artifacts.training is artifacts.metrics is artifacts.model is None
    assert not artifacts.stages
    assert not artifacts.rankings


def test_damage_is_not_overlooked(whole_run: Run, tmp_path: Path) -> None:
    shutil.copytree(whole_run.folder, tmp_path / "run")
    (tmp_path / "run" / "dataset" / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"test.parquet: changed since"):
        read_artifacts(Run(tmp_path / "run"))


def test_weights_that_are_none_are_named(whole_run: Run, tmp_path: Path) -> None:
    shutil.copytree(whole_run.folder, tmp_path / "run")
    (tmp_path / "run" / "model" / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ArtifactError, match=r"model.safetensors: not valid safetensors"):
        read_artifacts(Run(tmp_path / "run"))


def _write_log(path: Path, records: list[dict[str, float]], tail: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail, encoding="utf-8")
    return path


def test_a_step_trained_again_counts_once(tmp_path: Path) -> None:
    steps = [{"step": 10, "loss": 5.0}, {"step": 20, "loss": 4.0}, {"step": 20, "valid_loss": 4.5}]
    log = read_training_log(_write_log(tmp_path / "sft.jsonl", [*steps, {"step": 20, "loss": 3.5}]))
    assert [record["loss"] for record in log.train] == [5.0, 3.5]
    assert [record["valid_loss"] for record in log.valid] == [4.5]


def test_a_line_still_being_written_is_left_out(tmp_path: Path) -> None:
    log = read_training_log(_write_log(tmp_path / "sft.jsonl", [{"step": 10, "loss": 5.0}], tail='{"step": 20, "lo'))
    assert [record["step"] for record in log.train] == [10]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{nonsense\n", "line 2: not valid JSON"), ('{"loss": 1.0}\n', "line 2: expected an object with a whole number")],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_training_log(_write_log(tmp_path / "sft.jsonl", [{"step": 10, "loss": 5.0}], tail=line))


def test_the_log_of_a_first_training_is_read_while_it_runs(tmp_path: Path) -> None:
    _write_log(tmp_path / "checkpoints" / "rl" / "rl.jsonl", [{"step": 10, "loss": 5.0}])
    under_way = read_artifacts(Run(tmp_path)).reinforcement
    assert under_way is not None
    assert under_way.train[0]["loss"] == 5.0
    _write_log(tmp_path / "rl" / "rl.jsonl", [{"step": 10, "loss": 4.0}])
    finished = read_artifacts(Run(tmp_path)).reinforcement
    assert finished is not None
    assert finished.train[0]["loss"] == 4.0
