"""Every recipe of the repository is one that itemic accepts, and bad ones are refused by name."""

from pathlib import Path

import pytest

from itemic.core.errors import ConfigError
from itemic.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


STUDIES = RECIPES / "studies"  # files of another kind, beside recipes


@pytest.mark.parametrize(
    "path",
    sorted(set(RECIPES.rglob("*.yaml")) - set(STUDIES.rglob("*.yaml"))),
    ids=lambda path: str(path.relative_to(RECIPES)),
)
def test_recipes_validate(path: Path) -> None:
    recipe = load_recipe(path, ("data=somewhere",))
    if recipe.sft is not None:
        assert recipe.prepare.max_history == recipe.sft.max_history, "histories are cut to one length everywhere"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


SOURCE = "prepare:\n  source: {format: movielens}\n"


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, SOURCE + "sft:\n  training: {learning_rat: 0.1}\n")
    with pytest.raises(ConfigError, match=r"unknown key sft.training.learning_rat; did you mean .*learning_rate"):
        load_recipe(path)
    path = write(tmp_path, "prepare:\n  source: {format: movielens, pth: x}\n")
    with pytest.raises(ConfigError, match=r"unknown key prepare.source.pth; did you mean prepare.source.path"):
        load_recipe(path)


def test_a_wrong_type_and_a_missing_key_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sft.training.epochs.*integer.*'many'"):
        load_recipe(write(tmp_path, SOURCE + "sft:\n  training: {epochs: many}\n"))
    with pytest.raises(ConfigError, match="missing key prepare"):
        load_recipe(write(tmp_path, "seed: 1\n"))
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_recipe(write(tmp_path, "- 1\n"))
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_recipe(write(tmp_path, "a: [\n"))


def test_rl_asks_what_the_model_can_read(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, SOURCE)).rl is None
    path = write(tmp_path, SOURCE + "rl:\n  tasks: {title_to_sid: 1}\n")
    with pytest.raises(ConfigError, match=r"rl\.tasks\.title_to_sid: needs words"):
        load_recipe(path)
    assert load_recipe(path, ("sft.backbone=smollm2-135m",)).rl is not None
    with pytest.raises(ConfigError, match=r"rl\.tasks\.sid_to_description: its answers are free text"):
        load_recipe(path, ("sft.backbone=smollm2-135m", "rl.tasks={sid_to_description: 1}"))


def test_the_data_folder_stands_for_itself_in_every_path(tmp_path: Path) -> None:
    path = write(tmp_path, 'prepare:\n  source: {format: movielens, path: "{data}/ml.zip"}\n')
    assert load_recipe(path, ("data=/some/where",)).prepare.source.path == "/some/where/ml.zip"  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="data=FOLDER"):
        load_recipe(path)


def test_changes_from_the_command_line_reach_nested_keys(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SOURCE), ("sft.training.epochs=3", "tokenize.codebook_sizes=[8, 8]"))
    assert recipe.sft.training.epochs == 3
    assert recipe.tokenize.codebook_sizes == (8, 8)
    with pytest.raises(ConfigError, match="expected key=value"):
        load_recipe(write(tmp_path, SOURCE), ("sft",))
    with pytest.raises(ConfigError, match="seed holds a value"):
        load_recipe(write(tmp_path, SOURCE + "seed: 3\n"), ("seed.x=1",))


def test_an_assistant_is_a_row_of_a_recipe_that_searches_titles(tmp_path: Path) -> None:
    path = write(tmp_path, SOURCE)
    with pytest.raises(ConfigError, match=r"titles\.assistant: needs answer: title-tree, found sid"):
        load_recipe(path, ("evaluate.titles.assistant=sasrec",))
    with pytest.raises(ConfigError, match=r"titles\.assistant: 'gru' is no row of baselines; there are popularity"):
        load_recipe(path, ("evaluate.titles.assistant=gru", "evaluate.answer=title-tree"))


def test_answers_in_titles_need_a_model_that_is_taught_them(tmp_path: Path) -> None:
    path = write(tmp_path, SOURCE)
    taught = ("evaluate.answer=title-grounded", "sft.words=300", "sft.tasks={titles_to_title: 1}")
    assert load_recipe(path, taught).evaluate.answer == "title-grounded"
    with pytest.raises(ConfigError, match=r"title-tree needs .*put titles_to_title among sft\.tasks .*found next_item"):
        load_recipe(path, ("evaluate.answer=title-tree",))
    with pytest.raises(
        ConfigError, match=r"evaluate\.answer: title-tree is asked of the model, which sft: null leaves"
    ):
        load_recipe(path, ("evaluate.answer=title-tree", "sft=null"))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("llm/*.yaml")), ids=lambda path: path.stem)
def test_language_model_recipes_fit_a_small_decoder_too(path: Path) -> None:
    recipe = load_recipe(path, ("data=somewhere", 'sft.backbone=""', "sft.words=4000", "sft.training.max_steps=0"))
    assert recipe.sft.prompt_mode == "chat"


def test_rows_of_baselines_may_be_named_by_their_kind_alone(tmp_path: Path) -> None:
    path = write(tmp_path, SOURCE + "baselines: [popularity, ease]\n")
    assert [row.settings.kind for row in load_recipe(path).baselines.values()] == ["popularity", "ease"]
    changed = load_recipe(path, ("baselines.ease.settings.l2=7.0", "baselines.sasrec={}"))
    assert list(changed.baselines) == ["popularity", "ease", "sasrec"]
    assert changed.baselines["ease"].settings.l2 == 7.0
    assert load_recipe(path, ("baselines={}",)).baselines == {}
    with pytest.raises(ConfigError, match=r"baselines\.best: no baseline 'best'; there are popularity"):
        load_recipe(path, ("baselines={best: {}}",))
    with pytest.raises(
        ConfigError, match=r"baselines\.SASRecc: no baseline 'SASRecc'; did you mean sasrec\? There are"
    ):
        load_recipe(path, ("baselines={SASRecc: {}}",))
    with pytest.raises(ConfigError, match=r"baselines\.mine: no baseline 'item_knn'; did you mean item-knn\?"):
        load_recipe(path, ("baselines={mine: {settings: {kind: item_knn}}}",))
    with pytest.raises(ConfigError, match=r"unknown key baselines\.ease\.serch; did you mean baselines\.ease\.search"):
        load_recipe(path, ("baselines.ease.serch={}",))
    with pytest.raises(ConfigError, match="expected rows by their names, or a list of kinds, found 3"):
        load_recipe(path, ("baselines=3",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["baselines=[tiger]", "blend={members: [model, tiger]}"], r"blend\.members: 'tiger' is of kind tiger"),
        (
            ["baselines=[tiger]", "evaluate={answer: title-tree, titles: {assistant: tiger}}"],
            r"evaluate\.titles\.assistant: 'tiger' is of kind tiger",
        ),
        (["baselines={model: {settings: {kind: ease}}}"], r"baselines\.model: a blend's members call something else"),
        (["baselines={dense-head: {settings: {kind: ease}}}"], r"baselines\.dense-head: a blend's members"),
        (["baselines={a: {settings: {kind: ease}}, ease: {}}"], r"baselines\.ease: .*'EASE', is that of baselines\.a"),
        (["baselines.ease.name=itemic"], r"baselines\.ease: .*'itemic', is that of the model"),
        (["blend={name: EASE}"], r"baselines\.ease: .*'EASE', is that of blend"),
        (["baselines.ease.search={no_such: [1]}"], r"baselines\.ease\.search\.no_such: ease has no such setting"),
        (["baselines.ease.search={l2: []}"], r"baselines\.ease.*search\.l2: expected at least one value, found none"),
        (["baselines.ease.search={l2: [many]}"], r"baselines\.ease\.search: .*'many'.*number"),
        (["blend={members: [model], published: Nobody}"], r"published 'Nobody': nothing is listed"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_once(tmp_path: Path, changes: list[str], message: str) -> None:
    path = write(tmp_path, SOURCE + "baselines: [ease, text-knn, covisit-knn]\n")
    with pytest.raises(ConfigError, match=message):
        load_recipe(path, tuple(changes))


def test_the_names_in_the_table_are_known_beforehand(tmp_path: Path) -> None:
    path = write(tmp_path, SOURCE + "baselines: {ease: {}, covisit-knn: {name: Neighbours}}\n")
    assert load_recipe(path).table_names == ("itemic", "EASE", "Neighbours")
    changes = ("rl={}", "blend={members: [model, ease]}")
    assert load_recipe(path, changes).table_names == (
        "itemic blend",
        "itemic",
        "itemic before RL",
        "EASE",
        "Neighbours",
    )
    assert load_recipe(path, (*changes, "evaluate.before_rl=false")).table_names[:2] == ("itemic blend", "itemic")
    assert load_recipe(path, ("sft=null", "baselines.ease.name=itemic")).table_names == ("itemic", "Neighbours")
