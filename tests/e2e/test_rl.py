"""A run with RL: which of its two models is asked, calibrated, evaluated and kept, whatever RL itself has learned."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import itemic
from itemic.cli.main import main
from itemic.cli.model_flags import MODELS
from itemic.core.calibration import Calibration
from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.run import Run, StageResult
from itemic.core.trained_model import ModelChoice, find_model
from itemic.inference import save_calibration
from itemic.model.sid_model import SidModel
from itemic.pipeline import STAGES, run_recipe
from itemic.recipe import load_recipe, with_run
from itemic.train.rl.config import RlConfig
from itemic.upkeep import describe_catalog, refit_run


def train_stand_in(folder: Path, factor: float = 3.0, max_history: int = 50) -> None:
    """What RL leaves behind, without learning: the model with other weights, so that it answers otherwise."""
    run = Run(folder)
    inputs = {"start": run.require("model", "sft"), "dataset": run.path("dataset"), "catalog": run.path("catalog")}

    def work() -> Mapping[str, Any]:
        model = SidModel.load(inputs["start"])
        with torch.no_grad():
            for weight in model.network.parameters():
                weight.mul_(factor)
        model.save(run.path("rl/model"))
        run.path("rl/rl.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
        return {"num_steps": 1}

    config = {"factor": factor, "max_history": max_history}
    run.stage("rl", work, config=config, inputs=inputs, outputs=["rl/model", "rl/rl.jsonl"], seed=0)


@pytest.fixture(scope="module")
def rl_run(shop_run: Path) -> Path:
    """The module's shop after RL; tests that write take a copy."""
    train_stand_in(shop_run)
    return shop_run


@pytest.fixture
def copy(rl_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(rl_run, tmp_path / "run")
    return tmp_path / "run"


def stages(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())["stages"]
    return found


def change_sft(run: Path) -> None:
    """The manifest as it is after ``itemic sft`` has written another model."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["sft"]["outputs"]["model"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))


def test_the_last_model_is_the_one_after_rl(rl_run: Path) -> None:
    assert get_args(ModelChoice) == MODELS
    run, written = Run(rl_run), stages(rl_run)
    last, before = find_model(run), find_model(run, "sft")
    assert last == find_model(run, "rl")
    assert (last.stage, last.path) == ("rl", rl_run / "rl" / "model")
    assert (before.stage, before.path) == ("sft", rl_run / "model")
    assert (last.content, before.content) == (written["rl"]["outputs"]["rl/model"], written["sft"]["outputs"]["model"])
    assert last.max_history == before.max_history == 5
    after, sft = itemic.load_trained(rl_run), itemic.load_trained(rl_run, model="sft")
    assert {key for key in after.identity if after.identity[key] != sft.identity[key]} == {"model"}
    assert after.recommend(["i1"], 3) != sft.recommend(["i1"], 3)


def test_rl_that_began_from_an_older_model_is_not_used(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_sft(copy)
    for choice in ("last", "rl"):
        with pytest.raises(
            ArtifactError, match=r"from an older model than .*run itemic rl again, or ask .*--model sft$"
        ):
            find_model(Run(copy), choice)
    assert find_model(Run(copy), "sft").stage == "sft"
    for command in (["recommend", "--history", "i1"], ["calibrate"], ["evaluate"]):
        with pytest.raises(SystemExit, match="2"):
            main([*command, "--run", str(copy)])
        error = capsys.readouterr().err
        assert "was trained from an older model" in error
        assert ("evaluate.model=sft" in error) == (command == ["evaluate"])
    main(["catalog", "show", "--run", str(copy)])
    told = f"model after RL: trained on this catalog; began from an older model; run itemic rl --run {copy}"
    assert told in capsys.readouterr().out
    main(["report", "--run", str(copy)])
    capsys.readouterr()
    page = (copy / "report.html").read_text()
    assert "Reinforcement learning began from an older model" in page
    assert "This began from an older model than the one of itemic sft: run itemic rl." in page
    main(["recommend", "--history", "i1", "--run", str(copy), "--model", "sft", "--json"])
    assert len(json.loads(capsys.readouterr().out)["items"]) == 10


def test_models_that_are_not_there_are_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model: missing; run itemic sft first"):
        find_model(Run(tmp_path), "rl")
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["stages"]["rl"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"no entry for rl; run itemic rl again"):
        find_model(Run(copy))
    shutil.rmtree(copy / "rl")
    assert find_model(Run(copy)).stage == "sft"
    with pytest.raises(ArtifactError, match=r"rl/model: missing; run itemic rl first"):
        find_model(Run(copy), "rl")


def test_a_calibration_belongs_to_one_of_the_models(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    curve = Calibration(stated=np.array([0.5]), actual=np.array([0.25]))
    before = itemic.load_trained(copy, model="sft", calibrated=False)
    assert save_calibration(copy, before, curve) == copy / "calibration.json"
    assert itemic.load_trained(copy, model="sft").calibration is not None
    caplog.clear()
    after = itemic.load_trained(copy)
    assert after.calibration is None
    assert "until you run itemic calibrate --model rl" in caplog.text
    assert save_calibration(copy, after, curve) == copy / "rl" / "calibration.json"
    caplog.clear()
    both = [itemic.load_trained(copy, model=choice).calibration for choice in ("sft", "rl")]
    assert [dict(each.made_for)["model"] for each in both if each] == [
        find_model(Run(copy), choice).content for choice in ("sft", "rl")
    ]
    assert not caplog.text
    train_stand_in(copy, factor=2.0, max_history=3)
    assert find_model(Run(copy)).max_history == 3
    with pytest.raises(ArtifactError, match=r"rl/calibration.json: fitted with model"):
        itemic.load_trained(copy)


def test_a_table_of_one_model_does_not_go_on_with_the_other(
    rl_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["recommend", "--run", str(rl_run), "--users", "all", "-k", "2", "--chunk-rows", "32"]
    flags += ["--out", str(tmp_path / "recs.parquet")]
    done, true_recommend = [], itemic.TrainedRun.recommend_many

    def recommend(self: Any, *arguments: Any, **options: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(self.stage)
        return true_recommend(self, *arguments, **options)

    monkeypatch.setattr(itemic.TrainedRun, "recommend_many", recommend)
    with pytest.raises(SystemExit, match="130"):
        main([*flags, "--model", "sft"])
    assert done == ["sft", "sft"]
    monkeypatch.undo()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    assert "64 users are done, but begun otherwise: model was" in capsys.readouterr().err
    main([*flags, "--model", "sft"])
    assert "64 users were done before" in capsys.readouterr().out


def test_both_models_are_evaluated_and_compared(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["evaluate", "--run", str(copy), "--published", "MiniOneRec"]
    others = ["Popularity", "Repeat last", "Co-visit KNN"]
    main(flags)
    shown = capsys.readouterr().out
    assert "itemic before" in shown  # The name may be wrapped.
    assert re.search(
        r"^Reinforcement learning: NDCG@10 \S+ against the model before, (not )?a clear difference, p ", shown, re.M
    )
    metrics = json.loads((copy / "metrics.json").read_text())
    assert list(metrics["recommenders"]) == ["itemic", "itemic before RL", *others]
    assert [row["published"] for row in metrics["recommenders"].values()] == ["MiniOneRec", *[""] * 4]
    assert {"value", "low", "high"} <= set(metrics["recommenders"]["itemic before RL"]["metrics"]["NDCG@10"])
    assert ("itemic", "itemic before RL") in {(made["a"], made["b"]) for made in metrics["comparisons"]}
    assert (copy / "rankings" / "itemic-before-rl.parquet").is_file()
    written = stages(copy)
    assert written["evaluate"]["inputs"]["model"] == written["rl"]["outputs"]["rl/model"]
    assert written["evaluate"]["inputs"]["before_rl"] == written["sft"]["outputs"]["model"]
    main([*flags, "--model", "sft"])
    alone = json.loads((copy / "metrics.json").read_text())["recommenders"]
    assert list(alone) == ["itemic", *others]
    assert alone["itemic"]["metrics"] == metrics["recommenders"]["itemic before RL"]["metrics"]
    main([*flags, "--model", "last", "--no-before-rl"])
    alone = json.loads((copy / "metrics.json").read_text())["recommenders"]
    assert list(alone) == ["itemic", *others]
    assert alone["itemic"]["metrics"] == metrics["recommenders"]["itemic"]["metrics"]


def test_a_catalog_that_changes_keeps_both_models_and_a_refit_neither(
    rl_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smaller, renewed = tmp_path / "smaller", tmp_path / "renewed"
    main(["catalog", "retire", "--run", str(rl_run), "--items", "i3", "--out", str(smaller)])
    assert f"itemic sft --run {smaller}, itemic rl --run {smaller}" in capsys.readouterr().out
    assert itemic.load_trained(smaller, allow_catalog_change=True).stage == "rl"
    assert "this one descends from it" in describe_catalog(smaller)["model_after_rl"]
    main(["catalog", "show", "--run", str(rl_run)])
    assert "model after RL: trained on this catalog" in capsys.readouterr().out
    refit_run(rl_run, renewed)
    assert not (renewed / "rl").exists()
    assert "rl" not in stages(renewed)
    assert describe_catalog(renewed)["model_after_rl"] is None


def test_rl_is_a_stage_of_recipes_that_ask_for_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[RlConfig, int]] = []

    def done(name: str) -> StageResult:
        return StageResult(name=name, skipped=False, metrics={}, wall_time_s=0.0)

    def stand_in(config: RlConfig, run: Run, *, seed: int, force: bool = False) -> StageResult:
        asked.append((config, seed))
        return done("rl")

    monkeypatch.setattr("itemic.pipeline.rl", stand_in)
    names = list(STAGES)
    assert names[names.index("sft") + 1] == "rl"
    assert names[names.index("rl") + 1 :] == ["baselines", "blend", "evaluate", "report"]
    recipe = with_run(load_recipe(copy / "recipe.yaml"), copy)
    with pytest.raises(ConfigError, match=r"has no section rl; rl=\{\} takes its defaults"):
        run_recipe(recipe, stages=["rl"])
    changed = load_recipe(copy / "recipe.yaml", ("rl.training.max_steps=2", f"run={copy}"))
    run_recipe(changed, stages=["sft", "rl"])
    assert [(config.training.max_steps, seed) for config, seed in asked] == [(2, 4)]
    monkeypatch.setattr("itemic.pipeline.run_stage", lambda recipe, name, force: done(name))
    assert [done("rl") in run_recipe(each) for each in (recipe, changed)] == [False, True]


def test_the_command_needs_no_section_and_leaves_one(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / "rl")
    assert load_recipe(copy / "recipe.yaml").rl is None
    flags = ["rl", "--run", str(copy), "--training.max-steps", "2", "--seed", "3"]
    main([*flags, "--json"])
    assert json.loads(capsys.readouterr().out)["num_steps"] >= 1
    assert load_recipe(copy / "recipe.yaml").rl is not None
    assert (load_recipe(copy / "recipe.yaml").seed, stages(copy)["rl"]["seed"]) == (4, 3)
    main(flags)
    summary = (
        r"rl: validation NDCG@10 \S+ -> \S+ .*, HR@50 \S+ -> \S+ .*, step \d of 2; log .*/rl.jsonl; next: itemic ev"
    )
    shown = capsys.readouterr().out
    assert re.match(summary, shown)
    main(["run", str(copy / "recipe.yaml"), "--run", str(copy), "--stages", "rl"])
    assert re.match(summary, capsys.readouterr().out)
    with pytest.raises(SystemExit, match="2"):
        main(["recommend", "--run", str(copy), "--user", "42"])
    assert "unrecognized arguments: --user 42" in capsys.readouterr().err
    assert itemic.load_trained(copy).stage == "rl"
    with pytest.raises(SystemExit, match="0"):
        main(["rl", "--help"])
    assert "writes rl/model" in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(copy / "model")
    with pytest.raises(SystemExit, match="2"):
        main(["rl", "--run", str(copy)])
    assert "model: missing; run itemic sft first" in capsys.readouterr().err
