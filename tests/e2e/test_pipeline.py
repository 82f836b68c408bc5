"""From two CSV files to recommendations: the answer is known, so every figure can be checked."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import itemic
from itemic.cli.main import main

WriteRecipe = Callable[..., Path]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from itemic.cli.main import main; main()", *arguments]


def curve(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "sft.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "wall_time_s"} for line in lines]


@pytest.mark.slow
def test_the_whole_road_finds_every_next_item(
    recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = recipe(), tmp_path / "run"
    main(["run", str(path)])
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())["recommenders"]
    assert metrics["itemic"]["metrics"]["HR@1"]["value"] == 1.0
    assert metrics["itemic"]["metrics"]["NDCG@10"]["value"] == 1.0
    assert metrics["itemic"]["metrics"]["Invalid@10"]["value"] == 0.0
    assert metrics["Popularity"]["metrics"]["HR@1"]["value"] < 0.5

    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file() and file.name != "recipe.yaml"}
    main(["run", str(path)])
    after = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file() and file.name != "recipe.yaml"}
    assert after == before, "a second run changes nothing"
    capsys.readouterr()

    main(["recommend", "--run", str(run), "--history", "i10", "Thing 3", "--k", "3", "--json"])
    found = json.loads(capsys.readouterr().out)["items"]
    assert [item["rank"] for item in found] == [1, 2, 3]
    assert found[0]["item_id"] == "i16"
    assert found[0]["probability"] > 0.5
    main(["recommend", "--run", str(run), "--history", "i10", "i3", "--exclude", "i16", "--k", "19", "--json"])
    assert "i16" not in {item["item_id"] for item in json.loads(capsys.readouterr().out)["items"]}

    trained = itemic.load_trained(run)
    assert trained.recommend(["Thing 3"], 1)[0].title == "Thing 16"
    assert [item.item_id for item in trained.recommend(["i3"], 5, allow=["i1", "i2"])] != []
    with pytest.raises(SystemExit, match="2"):
        main(["recommend", "--run", str(run), "--history", "Thign 3"])
    assert "nearest titles are 'Thing 3'" in capsys.readouterr().err

    network = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert network.config.vocab_size == len(tokenizer)

    main(["export", "--run", str(run), "--to", "minionerec", "--out", str(tmp_path / "out"), "--category", "Things"])
    assert (tmp_path / "out" / "train" / "Things.csv").is_file()
    rankings = run / "rankings"
    capsys.readouterr()
    main(["compare", str(rankings / "itemic.parquet"), str(rankings / "popularity.parquet"), "--metric", "HR@1"])
    assert json.loads(capsys.readouterr().out)["difference"] > 0.5


@pytest.mark.slow
def test_a_run_killed_in_training_resumes_to_the_same_loss_curve(recipe: WriteRecipe, tmp_path: Path) -> None:
    path = recipe(epochs=2, checkpoint_every_s=0.0)
    stages = ["--stages", "prepare,embed,tokenize,sft"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main(["run", str(path), "--run", str(whole), *stages])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command("run", str(path), "--run", str(killed), *stages), env=environment)
    log = killed / "checkpoints" / "sft" / "sft.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.read_text().count("\n") >= 5):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "model").exists()
    assert not (killed / "sft.jsonl").exists()
    assert log.read_text().count("\n") < len(curve(whole))
    main(["run", str(path), "--run", str(killed), *stages])
    assert curve(killed) == curve(whole)
    same = (killed / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    assert same


def test_a_single_stage_takes_its_settings_from_the_run_and_flags(
    recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    main(["prepare", "--recipe", str(recipe()), "--run", str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["items"] == 20
    main(["embed", "--run", str(run)])
    main(["tokenize", "--run", str(run), "--codebook-sizes", "4", "8"])
    assert json.loads((run / "catalog" / "catalog.json").read_text())["codebook_sizes"] == [4, 8]


def test_collaborative_vectors_reach_the_codes(
    recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    changes = ["collaborative={kind: svd, num_dimensions: 8}", "tokenize.vectors={kind: joint}"]
    main(["run", str(recipe()), *changes, "--stages", "prepare,embed,collaborative,tokenize", "--json"])
    assert json.loads(capsys.readouterr().out)["collaborative"] == {"num_items": 20, "num_seen": 20, "width": 8}
    manifest = json.loads((run / "manifest.json").read_text())["stages"]
    assert set(manifest["tokenize"]["inputs"]) == {"items", "embeddings", "collaborative"}
    assert (run / "catalog" / "vectors.safetensors").is_file()
    main(["collaborative", "--run", str(run), "--num-dimensions", "4", "--json"])
    assert json.loads(capsys.readouterr().out)["width"] == 4
    main(["tokenize", "--run", str(run), "--vectors.kind", "joint", "--vectors.collaborative-weight", "0.25"])
    again = json.loads((run / "manifest.json").read_text())["stages"]["tokenize"]
    assert again["config"]["vectors"]["collaborative_weight"] == 0.25
    assert again["inputs"]["collaborative"] != manifest["tokenize"]["inputs"]["collaborative"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], "did you mean itemic run?"),
        (["collaborative"], "expected --recipe FILE, or --run"),
        (["sft"], "expected --recipe FILE, or --run"),
        (["run", "nothing.yaml"], "nothing.yaml: no such file"),
        (["recommend", "--run", "nowhere"], "missing; run itemic prepare first"),
    ],
)
def test_bad_commands_end_with_2_and_say_what_to_do(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert words in capsys.readouterr().err
