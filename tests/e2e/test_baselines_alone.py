"""A recipe of baselines alone, and what its commands say."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from itemic.baselines.registry import BASELINES
from itemic.cli.main import main


@pytest.fixture
def alone(recipe: Callable[..., Path]) -> Path:
    """The toy shop's recipe without a language model."""
    path = recipe()
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "sft": None}))
    return path


def test_help_says_that_rows_are_set_in_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["baselines", "--help"])
    said = capsys.readouterr().out
    assert "Settings are in the recipe, row by row" in said
    assert all(kind in said for kind in BASELINES)
