"""A stage is lent where it would come out the same, and is not run again by the one that took it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from itemic.core.run import Run
from itemic.recipe import Recipe, load_recipe
from itemic.studies.sharing import borrow, borrow_stage

ARTEFACTS = {"prepare": "dataset", "embed": "embeddings.safetensors", "tokenize": "catalog"}


def fail() -> dict[str, int]:
    raise AssertionError("a stage that was taken ran again")


def run_stage(run: Run, name: str, work: Callable[[], dict[str, int]]) -> dict[str, int]:
    output = ARTEFACTS[name]
    return dict(run.stage(name, work, config={}, inputs={}, outputs=[output], seed=0).metrics)


def make(run: Run, name: str, text: str) -> None:
    """Runs a stage that writes a text, into a folder where its artefact is one."""

    def work() -> dict[str, int]:
        path = run.path(ARTEFACTS[name])
        path = path if path.suffix else path / "inside" / "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return {"length": len(text)}

    run_stage(run, name, work)


@pytest.fixture
def recipes(tmp_path: Path) -> Callable[..., Recipe]:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"prepare": {"source": {"format": "movielens"}}}))

    def load(run: str, *changes: str) -> Recipe:
        return load_recipe(path, (f"run={tmp_path / run}", *changes))

    return load


@pytest.fixture
def donor(recipes: Callable[..., Recipe]) -> Recipe:
    recipe = recipes("donor")
    for name in ARTEFACTS:
        make(Run(recipe.run), name, f"the {name}")
    return recipe


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        (("sft.decoder.dropout=0.2",), ["prepare", "embed", "tokenize"]),
        (("tokenize.codebook_sizes=[8, 8]",), ["prepare", "embed"]),
        (("prepare.max_history=7",), []),
        (("seed=1",), []),
    ],
)
def test_a_stage_is_taken_where_it_and_those_before_it_are_the_same(
    recipes: Callable[..., Recipe], donor: Recipe, changes: tuple[str, ...], taken: list[str]
) -> None:
    taker = recipes("taker", *changes)
    assert borrow(taker, [donor]) == taken
    assert list(Run(taker.run).manifest()["stages"]) == taken


def test_what_was_taken_is_not_made_again_and_is_not_the_donors_own(tmp_path: Path, donor: Recipe) -> None:
    run = Run(tmp_path / "taker")
    assert borrow_stage(run, Run(donor.run), "tokenize")
    assert run_stage(run, "tokenize", fail) == {"length": len("the tokenize")}
    assert not borrow_stage(run, Run(donor.run), "tokenize"), "it has the stage already"
    make(Run(donor.run), "embed", "the embed")
    (run.path("catalog") / "inside" / "file").unlink()
    assert (Run(donor.run).path("catalog") / "inside" / "file").read_text() == "the tokenize"


def test_what_is_not_there_is_not_taken(tmp_path: Path, recipes: Callable[..., Recipe], donor: Recipe) -> None:
    run = Run(tmp_path / "taker")
    assert not borrow_stage(run, Run(tmp_path / "nobody"), "embed")
    Run(donor.run).path("embeddings.safetensors").unlink()
    assert not borrow_stage(run, Run(donor.run), "embed")
    assert run.manifest()["stages"] == {}
    second = recipes("second")
    make(Run(second.run), "embed", "the embed")
    assert borrow(recipes("taker"), [donor, second]) == ["prepare", "embed", "tokenize"], "of whoever has it"
