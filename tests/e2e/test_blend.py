"""A blend on the toy shop, from the recipe to what is served."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import itemic
from itemic.cli.main import main
from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.files import write_json
from itemic.core.run import Run


@pytest.mark.slow
def test_a_blend_is_as_good_as_its_members_and_is_refused_when_they_change(
    recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = recipe(epochs=8), tmp_path / "run"
    values = yaml.safe_load(path.read_text())
    values["baselines"] = ["repeat-last", "covisit-knn", "text-knn"]
    values["blend"] = {"members": ["model", "dense-head", "covisit-knn", "text-knn"], "num_folds": 2}
    path.write_text(yaml.safe_dump(values))
    main(["run", str(path), "--stages", "prepare,embed,tokenize,sft,baselines,blend,evaluate"])
    figures = json.loads((run / "metrics.json").read_text())["recommenders"]
    assert next(iter(figures)) == "itemic blend"
    made = json.loads((run / "metrics.json").read_text())["comparisons"]
    rows = [name for name in figures if name not in ("itemic blend", "itemic")]
    pairs = [(one["a"], one["b"]) for one in made if one["metric"] == "NDCG@10"]
    assert pairs == [("itemic blend", other) for other in ("itemic", *rows)] + [("itemic", other) for other in rows]
    reached = {name: entry["metrics"]["NDCG@10"]["value"] for name, entry in figures.items()}
    assert reached["itemic blend"] >= max(reached["itemic"], reached["Co-visit KNN"], reached["Text KNN"]) - 1e-9
    card = json.loads((run / "blend.json").read_text())
    assert set(card["valid"]["members"]) == {"model", "dense-head", "covisit-knn", "text-knn"}

    costs = {name: (entry["fit_s"], entry["fit_cpu_s"], entry["num_parameters"]) for name, entry in figures.items()}
    members = [costs[name] for name in ("itemic", "Co-visit KNN", "Text KNN")]
    assert costs["Text KNN"][2] == 0
    assert all(
        whole > sum(parts) for whole, parts in zip(costs["itemic blend"], zip(*members, strict=True), strict=True)
    )

    capsys.readouterr()
    main(["recommend", "--run", str(run), "--blend", "--history", "Thing 3", "--k", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["items"][0]["item_id"] == "i16"
    trained = itemic.load_trained(run, blend=True)
    alone = itemic.load_trained(run)
    found = trained.recommend(["Thing 3"], 20, exclude=["i16"])
    assert "i16" not in {item.item_id for item in found}
    assert found.num_allowed == alone.recommend(["Thing 3"], 20, exclude=["i16"]).num_allowed == len(found)
    assert trained.identity != alone.identity
    with pytest.raises(ConfigError, match="a blend does not think"):
        trained.after_thinking()

    main(["run", str(path), "baselines.covisit-knn={settings: {decay: 0.5}}", "--stages", "baselines"])
    with pytest.raises(ArtifactError, match="baselines/covisit-knn changed since the blend was fitted"):
        itemic.load_trained(run, blend=True)


@pytest.mark.slow
def test_a_blend_is_served_with_the_model_that_it_was_fitted_to_alone(
    shop_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run has a second model, as RL leaves one: a copy, for only its name and hash matter here."""
    run = Run(shop_run)
    manifest = run.manifest()
    shutil.copytree(run.path("model"), run.path("rl/model"))
    manifest["stages"]["rl"] = {**manifest["stages"]["sft"], "outputs": {"rl/model": "after RL"}, "inputs": {}}
    write_json(run.manifest_path, manifest)
    path = shop_run.parent / "recipe.yaml"
    change = "blend={members: [model, covisit-knn], model: sft, num_folds: 2}"
    main(["run", str(path), change, "--stages", "baselines,blend"])

    with pytest.raises(ConfigError, match=r"fitted to the model of sft, found that of rl; .*--model sft"):
        itemic.load_trained(shop_run, blend=True)
    with pytest.raises(ConfigError, match="scores with normalize legal, found full"):
        itemic.load_trained(shop_run, blend=True, model="sft", normalize="full")
    few, many = (
        itemic.load_trained(shop_run, blend=True, model="sft", num_beams=beams).recommend(["Thing 3"], 20)
        for beams in (1, 50)
    )
    assert list(few) == list(many), "the beams are the blend's own"
    with pytest.raises(SystemExit):
        main(["recommend", "--run", str(shop_run), "--blend", "--history", "Thing 3"])
    assert "--model sft" in capsys.readouterr().err
    main(["recommend", "--run", str(shop_run), "--blend", "--model", "sft", "--history", "Thing 3"])
