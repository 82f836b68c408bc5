"""From --vary to recipes: which there are, what they are called, and what is refused before anything runs."""

from pathlib import Path

import pytest

from itemic.core.errors import ConfigError
from itemic.studies.variants import BASE, find_variants, folder_name, parse_vary


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("prepare:\n  source: {format: movielens}\nsft:\n  decoder: {dropout: 0.1}\n")
    return path


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("sft.decoder.dropout=0.0,0.1", "sft.decoder.dropout", [0.0, 0.1]),
        ("tokenize.quantizer.kind=rqkmeans,rqvae", "tokenize.quantizer.kind", ["rqkmeans", "rqvae"]),
        ("tokenize.codebook_sizes=[4, 4],[8, 8]", "tokenize.codebook_sizes", [[4, 4], [8, 8]]),
        ("tokenize.quantizer={kind: rqvae}", "tokenize.quantizer", [{"kind": "rqvae"}]),
    ],
)
def test_values_are_read_as_a_yaml_list(text: str, key: str, values: list[object]) -> None:
    assert parse_vary(text) == (key, values)


@pytest.mark.parametrize("text", ["sft.decoder.dropout", "=1", "a=", "a=[1"])
def test_a_change_without_key_or_values_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected key=value,value"):
        parse_vary(text)


def test_a_change_that_changes_nothing_is_said(recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="itemic")
    variants = find_variants(recipe, (), {"sft.stride": [10, 25, 10.0]}, is_grid=False)
    assert [(one.name, one.also) for one in variants] == [
        (BASE, ("sft.stride=25",)),
        ("sft.stride=10", ("sft.stride=10.0",)),
    ]
    logged = [record.getMessage() for record in caplog.records]
    assert logged == [
        "sft.stride=25: the same recipe as base, which is run once",
        "sft.stride=10.0: the same recipe as sft.stride=10, which is run once",
    ]


def test_one_at_a_time_changes_one_key_and_a_grid_all(recipe: Path) -> None:
    vary = {"sft.decoder.dropout": [0.0, 0.1], "sft.stride": [10, 25]}
    variants = find_variants(recipe, (), vary, is_grid=False)
    assert [one.name for one in variants] == [BASE, "sft.decoder.dropout=0.0", "sft.stride=10"]
    assert [one.also for one in variants] == [("sft.decoder.dropout=0.1", "sft.stride=25"), (), ()]
    assert variants[1].recipe.sft is not None
    assert variants[1].recipe.sft.decoder.dropout == 0.0
    grid = find_variants(recipe, ("sft.training.epochs=2",), vary, is_grid=True)
    assert [one.name for one in grid][1:] == [
        "sft.decoder.dropout=0.0, sft.stride=10",
        "sft.decoder.dropout=0.0, sft.stride=25",
        "sft.decoder.dropout=0.1, sft.stride=10",
    ]
    assert all(one.recipe.sft is not None and one.recipe.sft.training.epochs == 2 for one in grid)


def test_a_variant_that_is_no_recipe_is_refused_by_name(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"variant sft\.decoder\.dropout=2: .*dropout"):
        find_variants(recipe, (), {"sft.decoder.dropout": [2]}, is_grid=False)
    with pytest.raises(ConfigError, match="nothing to vary"):
        find_variants(recipe, (), {}, is_grid=False)


def test_folders_have_plain_names_that_differ() -> None:
    assert folder_name("sft.decoder.dropout=0.1") == "sft.decoder.dropout=0.1"
    names = {folder_name("a={kind: x}"), folder_name("a={kind, x}"), folder_name("a=" + 200 * "b")}
    assert len(names) == 3
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.=-") and len(name) < 100 for name in names)
