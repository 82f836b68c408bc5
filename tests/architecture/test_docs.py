"""Docs that hold: links lead somewhere, commands exist, examples compile, YAML blocks are recipes."""

import ast
import re
from pathlib import Path

import pytest

from itemic.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere_and_nothing_is_left_open(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "@@" not in text, "a place still to be filled"
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text):
        assert (page.parent / target).exists(), f"broken link {target}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_in_code_blocks_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for block in re.findall(r"```(?:bash)?\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for line in block.splitlines():
            words = line.split("#")[0].split()
            if words and words[0] in ("itemic", ".venv/bin/itemic"):
                assert words[1] in COMMANDS, line
            if words and words[0] == "make":
                assert f"\n{words[1]}:" in makefile, line
            for word in words:
                if word.startswith("recipes/") or word.startswith("benchmarks/"):
                    assert (ROOT / word).exists(), line


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_compile_and_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ast.parse(text)
    assert text.count("\n") < 30


def test_the_readme_shows_the_example_it_names() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    example = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    shown = [line for line in block.splitlines() if line.strip()]
    assert all(line in example.splitlines() for line in shown)
    assert sum(not line.startswith(("from", "import")) for line in shown) < 10
