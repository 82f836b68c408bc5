"""A model of one toy shop recommends from another that sells the same things under other ids: a known answer."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from itemic.cli.main import main
from itemic.core.errors import ConfigError
from itemic.recipe import load_recipe
from itemic.sid.quantizers.rqkmeans import RQKMeans
from itemic.studies.transfer_config import TransferConfig
from itemic.studies.transfer_parts import extend_codes

THINGS = ["apple", "bread", "cheese", "date", "egg", "fig", "grape", "honey", "ice", "jam", "kale", "lemon"]
NUM_ITEMS, NUM_USERS = len(THINGS), 60
WriteShop = Callable[..., Path]


@pytest.fixture
def write_shop(tmp_path: Path) -> WriteShop:
    """Writes a shop and its recipe: thing t is sold under an id of the shop's own, and t + 5 is bought after it."""

    def write(name: str, step: int, **training: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        ids = [f"{name}{(thing * step) % NUM_ITEMS:02d}" for thing in range(NUM_ITEMS)]
        log = [
            {"user": f"u{user}", "item": ids[(user + 5 * place) % NUM_ITEMS], "time": 1_600_000_000 + 60 * place}
            for user in range(NUM_USERS)
            for place in range(6)
        ]
        pl.DataFrame(log).write_csv(folder / "log.csv")
        things = {"item": ids, "name": THINGS}
        pl.DataFrame(things).sort("item").write_csv(folder / "items.csv")
        vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 8)).astype(np.float32)
        pl.DataFrame({"item_id": ids, "vector": vectors.tolist()}).write_parquet(folder / "vectors.parquet")
        columns = {"user_id": "user", "item_id": "item", "timestamp": "time"}
        source = {"format": "table", "interactions": str(folder / "log.csv"), "items": str(folder / "items.csv")}
        values = {
            "prepare": {
                "source": {
                    **source,
                    "interaction_columns": columns,
                    "item_columns": {"item_id": "item", "title": "name", "description": ""},
                },
                "max_history": 4,
            },
            "embed": {"vectors": str(folder / "vectors.parquet")},
            "tokenize": {"codebook_sizes": [8, 8]},
            "sft": {
                "decoder": {
                    "hidden_size": 32,
                    "num_layers": 2,
                    "num_heads": 2,
                    "intermediate_size": 64,
                    "dropout": 0.0,
                },
                "max_history": 4,
                "stride": 4,
                "row_tokens": 128,
                "training": {"epochs": 25, "learning_rate": 1e-2, "device": "cpu", **training},
            },
            "rl": {"rollout": {"group_size": 4}, "training": {"max_steps": 1}, "max_history": 4},
            "evaluate": {
                "num_beams": 10,
                "cutoffs": [1, 5],
                "num_bootstrap": 20,
                "num_latency_requests": 0,
                "exclude_history": False,
            },
        }
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    main(["study", "transfer", *map(str, arguments), "--metric", "HR@1", "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def start_and_kill(out: Path, *arguments: object) -> dict[str, Any]:
    """Returns what a study had done when it was killed."""
    command = ["study", "transfer", *map(str, arguments), "--metric", "HR@1"]
    program = [sys.executable, "-c", "from itemic.cli.main import main; main()", *command]
    process = subprocess.Popen(program, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while not (out / "study.json").is_file():
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done: dict[str, Any] = json.loads((out / "study.json").read_text())["trials"]
    return done


def test_what_one_shop_taught_is_right_in_another(
    write_shop: WriteShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    arguments = (write_shop("a", 1), write_shop("b", 7), "--out", out, "--modes", "shared,refitted,extended,rl")
    done = start_and_kill(out, *arguments)
    assert list(done) == ["target-seed0"]
    found = run(capsys, *arguments)
    assert found["failed"] == []
    (table,) = found["tables"].values()
    rows = {row["name"]: row for row in table}
    assert list(rows) == ["popularity", "covisit-knn", "text-knn", "shared", "refitted", "extended", "rl"]
    for mode in ("shared", "refitted", "extended", "rl"):
        assert rows[mode]["mean"]["value"] == 1.0, mode
        assert rows[mode]["difference"]["value"] == 1.0 - rows["text-knn"]["mean"]["value"]
        assert rows[mode]["corrected"] >= rows[mode]["difference"]["p_value"]
    runs = out / "runs"
    manifest = json.loads((runs / "shared-seed0" / "manifest.json").read_text())["stages"]
    assert manifest["sft"]["config"] == {"transfer": "adopted", "max_history": 4}, "zero-shot: nothing was trained"
    trials = json.loads((out / "study.json").read_text())["trials"]
    assert trials["target-seed0"] == done["target-seed0"], "a killed study goes on"
    # A further mode leaves what is done alone.
    run(capsys, *arguments[:-1], "shared,in-domain")
    again = json.loads((out / "study.json").read_text())["trials"]
    assert {name: again[name] for name in trials} == trials
    assert "in-domain-seed0" in again
    assert "shared is best" in (out / "report.md").read_text() or "in-domain is best" in (out / "report.md").read_text()
    assert (out / "report.html").is_file()


def test_a_failed_mode_is_recorded_and_the_others_stand(
    write_shop: WriteShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_shop("a", 1, epochs=1), write_shop("b", 7, epochs=1)
    out = tmp_path / "study"
    changes = ("source.tokenize.codebook_sizes=[50]", "target.tokenize.collisions=unique")
    found = run(capsys, source, target, *changes, "--out", out, "--modes", "shared,in-domain")
    assert [text.partition(":")[0] for text in found["failed"]] == ["source-seed0", "shared-seed0"]
    (table,) = found["tables"].values()
    rows = {row["name"]: row for row in table}
    assert rows["in-domain"]["mean"] is not None
    assert rows["shared"]["error"] == "the run source, which this one builds on, has failed"
    assert "**Warning.** source-seed0" in (out / "report.md").read_text()


def test_a_model_of_words_is_asked_by_titles(
    write_shop: WriteShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    arguments = [
        "--out",
        out,
        "--modes",
        "text",
        "--both",
        "--words",
        "300",
        "sft.rows_per_batch=1",
        "sft.training.epochs=32",
    ]
    found = run(capsys, write_shop("a", 1), write_shop("b", 7), *arguments)
    assert found["failed"] == []
    assert list(found["tables"]) == ["source to target", "target to source"]
    for table in found["tables"].values():
        rows = {row["name"]: row for row in table}
        assert rows["text"]["mean"]["value"] > 3 * rows["popularity"]["mean"]["value"]
    assert (out / "runs" / "back-text-seed0" / "metrics.json").is_file()


def test_items_of_one_code_are_told_apart_by_a_further_level() -> None:
    x = np.array([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0]], dtype=np.float32)
    quantizer = RQKMeans.from_codebooks([np.array([[0.0, 0.5], [9.0, 0.5]], dtype=np.float32)])
    codes = quantizer.encode(x)
    assert codes[:, 0].tolist() == [0, 0, 1, 1]
    extended, sizes = extend_codes(quantizer, x, codes, 2, np.random.default_rng(0))
    assert sizes == (2, 2)
    np.testing.assert_array_equal(extended[:, :1], codes)
    assert extended[0, 1] == extended[2, 1] != extended[1, 1] == extended[3, 1]


def test_unknown_modes_and_codes_that_cannot_be_carried_are_refused(
    write_shop: WriteShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_shop("a", 1), write_shop("b", 7)
    with pytest.raises(
        ConfigError, match=r"expected some of shared, refitted, text, extended, rl, in-domain, .*'magic'"
    ):
        TransferConfig(recipe=source, target=target, out=tmp_path / "study", modes=("shared", "magic"))
    for arguments, words in (
        ([source], "expected two recipes"),
        ([source, target, "collaborative={kind: svd}", "tokenize.vectors={kind: joint}"], "must quantize text"),
        ([source, target, "target.sft=null", "target.rl=null"], "sft: null"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(capsys, *arguments, "--out", tmp_path / "study")
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["transfer_industrial", "transfer_office"])
def test_the_recipes_of_the_study_are_recipes(name: str) -> None:
    folder = Path(__file__).parents[2] / "recipes" / "studies"
    recipe = load_recipe(folder / f"{name}.yaml", ("data=somewhere",))
    assert recipe.sft is not None
