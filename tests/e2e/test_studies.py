"""Studies on the toy shop: killed and resumed, stages shared, a grid fitted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from itemic.cli.main import main

WriteRecipe = Callable[..., Path]
QUICK = ("evaluate.num_latency_requests=0", "evaluate.num_beams=10")


def stages(folder: Path, name: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((folder / "runs" / name / "manifest.json").read_text())["stages"]
    return found


@pytest.mark.slow
def test_a_killed_ablation_goes_on_and_shares_what_no_change_reaches(
    recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    arguments = ["study", "ablate", str(recipe(epochs=2)), "--vary", "sft.decoder.dropout=0.0,0.3", "--seeds", "0,1"]
    arguments += ["--metric", "HR@1", "--out", str(out), *QUICK]
    program = [sys.executable, "-c", "from itemic.cli.main import main; main()", *arguments]
    process = subprocess.Popen(program, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while not (out / "study.json").is_file():
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = json.loads((out / "study.json").read_text())["trials"]
    assert "base-seed0" in first
    assert len(first) < 4
    main([*arguments, "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == ["base", "sft.decoder.dropout=0.3"]
    assert all(len(row["mean"]["by_seed"]) == 2 for row in rows)
    assert rows[1]["corrected"] == rows[1]["difference"]["p_value"]
    trials = json.loads((out / "study.json").read_text())["trials"]
    assert trials["base-seed0"] == first["base-seed0"]
    assert [entry["status"] for entry in trials.values()] == ["done"] * 4
    for seed in (0, 1):
        base, variant = stages(out, f"base-seed{seed}"), stages(out, f"sft.decoder.dropout=0.3-seed{seed}")
        for name in ("prepare", "embed", "tokenize"):
            assert base[name] == variant[name], "taken, not computed again"
        assert base["sft"]["outputs"] != variant["sft"]["outputs"]
    assert "sft.decoder.dropout=0.3" in (out / "report.md").read_text()
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_a_grid_of_sizes_and_shares_gives_a_law(
    recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    arguments = ["study", "scaling", str(recipe(epochs=1)), "--sizes", "24x1,48x2", "--shares", "0.25,1"]
    arguments += ["--seeds", "0,1", "--num-bootstrap", "3", "--out", str(out), "--json", *QUICK]
    arguments.append("sft.training.log_every_steps=1000")
    main(arguments)
    found = json.loads(capsys.readouterr().out)
    assert set(found["law"]) == {"e", "a", "alpha", "b", "beta", "parameter_exponent", "data_exponent"}
    assert any("2 sizes" in words for words in found["doubts"])
    points = {(point["size"], point["share"], point["seed"]): point for point in found["points"]}
    assert len(points) == 8
    whole, part = points["48x2", 1.0, 0], points["48x2", 0.25, 0]
    assert 0.2 < part["figures"]["unique"] / whole["figures"]["unique"] < 0.3
    # No training has a thousand steps, so none has a line in its log, and yet its tokens are counted.
    assert whole["figures"]["seen"] == whole["figures"]["trained"] >= whole["figures"]["unique"]
    # 20 items of three codes below 4, with the special tokens: 48 numbers each, in a head that shares them.
    assert whole["figures"]["total"] - whole["figures"]["non-embedding"] == 48 * 15
    catalogs = {str(stages(out, f"48x2-share{share}-seed0")["sft"]["inputs"]["catalog"]) for share in ("1", "0.25")}  # type: ignore[index]
    assert len(catalogs) == 1, "one catalog for all"
    main(arguments)
    assert json.loads(capsys.readouterr().out) == found


def test_a_study_says_what_it_needs(recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(recipe())
    for arguments, words in (
        (["study", "nothing", path], "there are ablate, scaling"),
        (["study", "ablate", path], "expected --out FOLDER"),
        (["study", "ablate", path, "--out", str(tmp_path / "s"), "--vary", "sft.strid=1"], "did you mean sft.stride"),
        (["study", "scaling", path, "--out", "s", "--sizes", "8x1", "--shares", "1"], "two sizes and two shares"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert words in capsys.readouterr().err
