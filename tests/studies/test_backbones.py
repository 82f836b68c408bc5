"""Screening on a toy shop: halving leaves whom it should, trainings go on as if never interrupted, failures are out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from itemic.cli.main import main
from itemic.core.errors import ConfigError
from itemic.recipe import load_recipe
from itemic.studies.backbones import BackbonesConfig
from itemic.studies.screening import find_candidate, rank_scores, screen

NUM_ITEMS = 8


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A shop in which item i + 3 is bought after item i."""
    log = [
        {"user": f"u{user}", "item": f"i{(user + 3 * place) % NUM_ITEMS}", "time": 1_600_000_000 + 60 * place}
        for user in range(24)
        for place in range(5)
    ]
    pl.DataFrame(log).write_csv(tmp_path / "log.csv")
    ids = [f"i{item}" for item in range(NUM_ITEMS)]
    pl.DataFrame({"item": ids, "name": [f"word{item}" for item in range(NUM_ITEMS)]}).write_csv(tmp_path / "items.csv")
    vectors = [[float(item // 4), float(item // 2 % 2), float(item % 2)] for item in range(NUM_ITEMS)]
    pl.DataFrame({"item_id": ids, "vector": vectors}).write_parquet(tmp_path / "vectors.parquet")
    values = {
        "prepare": {
            "source": {
                "format": "table",
                "interactions": str(tmp_path / "log.csv"),
                "items": str(tmp_path / "items.csv"),
                "interaction_columns": {"user_id": "user", "item_id": "item", "timestamp": "time"},
                "item_columns": {"item_id": "item", "title": "name", "description": ""},
            },
            "max_history": 3,
        },
        "embed": {"vectors": str(tmp_path / "vectors.parquet")},
        "tokenize": {"codebook_sizes": [4, 4]},
        "sft": {
            "decoder": {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "intermediate_size": 32, "dropout": 0.0},
            "max_history": 3,
            "stride": 3,
            "row_tokens": 64,
            "training": {"epochs": 2, "learning_rate": 1e-2, "device": "cpu"},
        },
        "evaluate": {
            "num_beams": 8,
            "cutoffs": [1, 10],
            "num_bootstrap": 20,
            "num_latency_requests": 0,
            "exclude_history": False,
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def arguments(recipe: Path, out: Path, *more: object) -> list[str]:
    given = [recipe, "--tasks", "next_item,title_to_sid", "--words", "300", "--budget-steps", "2", "--out", out, *more]
    return ["study", "backbones", *map(str, given)]


def test_scores_by_hand() -> None:
    first = {"next_item": 1.0, "title_to_sid": 3.0, "NDCG@10": 0.5}
    second = {"next_item": 2.0, "title_to_sid": 2.0, "NDCG@10": 0.5}
    no_words = {"next_item": 3.0, "NDCG@10": 0.9}
    # first: beats both, beats nobody, ties with one of two; second: one of two, the only other, as before.
    expected = [(1 + 0 + 0.25) / 3, (0.5 + 1 + 0.25) / 3, (0 + 1) / 2]
    assert rank_scores([first, second, no_words]) == pytest.approx(expected)
    assert rank_scores([first]) == [1.0]
    assert rank_scores([]) == []


def test_halving_leaves_the_best_and_a_candidate_that_does_not_load_is_out(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, missing = tmp_path / "study", str(tmp_path / "nothing")
    names = f"decoder:16x1,words:16x1,words:32x2,{missing}"
    main(arguments(recipe, out, "--candidates", names, "--rungs", "2", "--json"))
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert f"backbone {missing!r}: no such folder" in rows[missing]["error"]
    assert rows[missing]["rungs"] == []
    reached = {name: [rung["num_steps"] for rung in row["rungs"]] for name, row in rows.items()}
    assert sorted(map(len, reached.values())) == [0, 1, 2, 2], "three were judged, two of them went on"
    final = [name for name, row in rows.items() if row["final"]]
    assert len(final) == 1
    assert next(iter(rows)) == final[0]
    assert set(rows["decoder:16x1"]["rungs"][0]["figures"]) == {"next_item", "NDCG@10"}
    assert set(rows["words:16x1"]["rungs"][0]["figures"]) == {"next_item", "title_to_sid", "NDCG@10"}
    assert f"{missing} is out" in (out / "report.md").read_text()
    assert (out / "report.html").is_file()


def test_a_raised_budget_goes_on_as_one_training(recipe: Path, tmp_path: Path) -> None:
    main(["run", str(recipe), "--stages", "prepare,embed,tokenize", f"run={tmp_path / 'data'}"])
    base = load_recipe(recipe).sft
    assert base is not None
    candidate = find_candidate(
        "words:16x1", base, ["next_item", "title_to_sid"], words=300, scratch_rate=1e-2, backbone_rate=1e-2
    )
    data = tmp_path / "data"

    def run(folder: str, num_steps: int) -> dict[str, Any]:
        return screen(candidate, data / "dataset", data / "catalog", tmp_path / folder, num_steps, seed=0)

    run("parts", 3)
    in_parts, at_once = run("parts", 6), run("whole", 6)
    assert in_parts["num_steps"] == 6
    assert in_parts["figures"] == at_once["figures"]


def test_a_killed_screening_goes_on(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    command = arguments(recipe, out, "--candidates", "decoder:16x1,decoder:32x1", "--rungs", "2")
    program = [sys.executable, "-c", "from itemic.cli.main import main; main()", *command]
    process = subprocess.Popen(program, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while not (out / "study.json").is_file():
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = json.loads((out / "study.json").read_text())["trials"]
    main([*command, "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["final"] is not None
    trials = json.loads((out / "study.json").read_text())["trials"]
    assert {name: trials[name] for name in first} == first
    main([*command, "--json"])
    assert json.loads(capsys.readouterr().out)["rows"] == rows


def test_unknown_candidates_and_tasks_are_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for candidates, words in (
        ("decoder:16x1,encoder:16x1", "there are decoder:WIDTHxLAYERS, words:WIDTHxLAYERS"),
        ("decoder:16x1,decoder:big", "expected width x layers"),
        ("decoder:16x1", "expected two or more"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments(recipe, tmp_path / "study", "--candidates", candidates))
        assert words in capsys.readouterr().err
    settings = {"recipe": recipe, "out": tmp_path / "study", "candidates": ("decoder:16x1", "decoder:32x1")}
    with pytest.raises(ConfigError, match=r"any of titles_to_sid, .*found 'sid_to_title'"):
        BackbonesConfig(**settings, tasks=("next_item", "sid_to_title"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="without next_item"):
        BackbonesConfig(**settings, tasks=("title_to_sid",))  # type: ignore[arg-type]


def test_the_recipe_of_the_study_names_candidates_that_there_are() -> None:
    path = Path(__file__).parents[2] / "recipes" / "studies" / "backbones_movielens.yaml"
    values = yaml.safe_load(path.read_text())
    recipe = load_recipe(path.parent / values["recipe"], tuple(values["changes"])).sft
    assert recipe is not None
    for name in values["candidates"]:
        assert find_candidate(name, recipe, values["tasks"], words=4000, scratch_rate=1e-3, backbone_rate=1e-4)
