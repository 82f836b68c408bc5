"""What a study makes of a recipe: the model alone where it alone is judged, and one schedule for every training."""

from pathlib import Path

import pytest
import yaml

from itemic.cli.main import main
from itemic.core.errors import ConfigError
from itemic.recipe import Recipe, load_recipe
from itemic.studies.ablation import AblationConfig, _plan
from itemic.studies.ablation_page import AblationRow, describe_ablation
from itemic.studies.backbones import BackbonesConfig
from itemic.studies.backbones import _base_recipe as _screened_recipe
from itemic.studies.ledger import Ledger
from itemic.studies.scaling import ScalingConfig, _base_recipe, _doubts_of_trainings
from itemic.studies.scaling import _plan as plan_scaling
from itemic.studies.scaling_page import ScalingPoint
from itemic.studies.transfer_config import TransferConfig, load_side
from itemic.studies.variants import find_variants

BLEND = {"members": ["model", "covisit-knn"], "name": "all together"}
TITLES = {
    "evaluate": {"answer": "title-tree", "titles": {"assistant": "sasrec"}},
    "sft": {"words": 300, "tasks": {"next_item": 1.0, "titles_to_title": 1.0}},
}


@pytest.fixture
def write(tmp_path: Path):
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n")
    (tmp_path / "items.csv").write_text("item_id,title,description\n")

    def _write(**sections: object) -> Path:
        source = {"format": "table", "interactions": str(tmp_path / "log.csv"), "items": str(tmp_path / "items.csv")}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"prepare": {"source": source}, **sections}))
        return path

    return _write


def ablation_recipe(path: Path, folder: Path, **settings: object) -> Recipe:
    """The recipe of the base under the first seed."""
    values = {"recipe": path, "out": folder / "study", "vary": {"sft.decoder.dropout": (0.2,)}, **settings}
    config = AblationConfig(**values)
    variants = find_variants(path, (), config.vary, is_grid=False)
    return _plan(variants, config, Ledger(config.out, "ablation"), "valid")[0].recipe


def test_an_ablation_of_the_model_trains_nobody_else(write, tmp_path: Path) -> None:
    recipe = ablation_recipe(write(blend=BLEND), tmp_path)
    assert (dict(recipe.baselines), recipe.blend) == ({}, None)


def test_an_ablation_keeps_the_row_that_answers_in_titles_need(write, tmp_path: Path) -> None:
    recipe = ablation_recipe(write(**TITLES), tmp_path)
    assert list(recipe.baselines) == ["sasrec"]


@pytest.mark.parametrize(
    "settings",
    [{"row": "all together"}, {"vary": {"blend.num_folds": (2, 3)}}, {"vary": {"baselines.sasrec.max_trials": (2,)}}],
)
def test_an_ablation_keeps_all_rows_where_another_than_the_model_is_judged(write, tmp_path: Path, settings) -> None:
    path = write(blend=BLEND, baselines=["popularity", "covisit-knn", "sasrec"])
    recipe = ablation_recipe(path, tmp_path, **settings)
    assert recipe.blend == load_recipe(path).blend
    assert list(recipe.baselines) == list(load_recipe(path).baselines)


def test_a_row_that_no_variant_evaluates_is_refused_before_anything_runs(write, tmp_path: Path) -> None:
    path = write(blend=BLEND, baselines=["popularity", "covisit-knn"])
    with pytest.raises(ConfigError, match=r"row 'SASRec': base evaluates all together, itemic, Popularity, Co-visit"):
        ablation_recipe(path, tmp_path, row="SASRec")


def scaling(path: Path, folder: Path) -> ScalingConfig:
    return ScalingConfig(recipe=path, out=folder / "study", sizes=("32x1", "64x2"), shares=(0.1, 0.5, 1.0))


@pytest.mark.parametrize("sections", [{"blend": BLEND}, TITLES, {"evaluate": {"model": "sft"}}])
def test_a_scaling_study_judges_the_decoder_alone(write, tmp_path: Path, sections) -> None:
    config = scaling(write(**sections), tmp_path)
    recipe = _base_recipe(config, Ledger(config.out, "scaling"))
    assert (dict(recipe.baselines), recipe.blend) == ({}, None)
    assert (recipe.evaluate.answer, recipe.evaluate.titles.assistant, recipe.evaluate.model) == ("sid", "", "last")


@pytest.mark.parametrize("sections", [{"blend": BLEND}, TITLES])
def test_so_do_a_transfer_and_a_screening(write, tmp_path: Path, sections) -> None:
    path = write(**sections)
    transfer = TransferConfig(recipe=path, target=path, out=tmp_path / "study")
    screening = BackbonesConfig(recipe=path, out=tmp_path / "study", candidates=("decoder:8x1", "decoder:16x1"))
    sides = [load_side(transfer, path, side) for side in ("source", "target")]
    for recipe in (*sides, _screened_recipe(screening, Ledger(tmp_path / "study", "backbones"))):
        assert (dict(recipe.baselines), recipe.blend) == ({}, None)
        assert (recipe.evaluate.answer, recipe.evaluate.titles.assistant) == ("sid", "")


def test_trainings_of_a_scaling_study_end_together(write, tmp_path: Path) -> None:
    training = {"patience": 2, "validate_at_start": True}
    config = scaling(write(sft={"training": training, "select_by": "ndcg"}), tmp_path)
    ledger = Ledger(config.out, "scaling")
    for cell in plan_scaling(config, _base_recipe(config, ledger), ledger):
        assert cell.recipe.sft is not None
        assert cell.recipe.sft.select_by == "loss"
        assert (cell.recipe.sft.training.patience, cell.recipe.sft.training.validate_at_start) == (0, False)


def point(best_step: int) -> ScalingPoint:
    figures = {"best_step": best_step, "num_steps": 30}
    facts = {"size": "8x1", "share": 1.0, "seed": 0, "num_parameters": 1, "num_tokens": 1}
    return ScalingPoint(**facts, loss=1.0, ndcg=None, figures=figures, wall_time_s=0.0)


def test_trainings_that_differ_in_more_than_size_and_share_are_doubted(write) -> None:
    recipe = load_recipe(write())
    assert _doubts_of_trainings(recipe, [point(30), point(30)]) == []
    [early] = _doubts_of_trainings(recipe, [point(30), point(20)])
    assert "1 of 2 trainings had their lowest loss before their last step" in early
    joined = load_recipe(write(), ("collaborative={kind: svd}", "tokenize.vectors={kind: joint}"))
    [codes] = _doubts_of_trainings(joined, [point(30)])
    assert "vectors of the whole log" in codes


def test_the_page_names_changes_that_gave_a_recipe_twice(tmp_path: Path) -> None:
    row = {"changes": {}, "mean": None, "difference": None, "corrected": None, "error": ""}
    rows = [AblationRow(name="base", also=("a=1", "b=2"), **row), AblationRow(name="a=2", **row)]
    config = AblationConfig(recipe=tmp_path / "r.yaml", out=tmp_path, vary={"a": (1, 2)})
    page = describe_ablation(rows, [], None, config, 0.0)
    assert [one.text for one in page.findings] == [
        "The same recipe as base, and so without a row of its own: a=1; b=2."
    ]


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("ablate", [], "does not say vary: give --vary sft.decoder.dropout=0.0,0.1 (say), or a study's own file"),
        ("scaling", [], "does not say sizes and shares: give --sizes 32x2,64x2,128x3 and --shares 0.25,0.5,1 (say)"),
        ("scaling", ["--sizes", "8x1,16x1"], "does not say shares: give --shares 0.25,0.5,1 (say)"),
        (
            "scaling",
            ["sft=null", "--sizes", "8x1,16x1", "--shares", "0.1,0.5,1"],
            "has no decoder to scale, for it says sft: null",
        ),
        ("ablate", ["--vary", "sft.stride=9", "--metric", "ngdc@5"], "metric 'ngdc@5': expected one of HR"),
    ],
)
def test_a_study_says_what_it_lacks(write, tmp_path: Path, capsys, kind: str, flags: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["study", kind, str(write()), *flags, "--out", str(tmp_path / "study")])
    assert message in capsys.readouterr().err
