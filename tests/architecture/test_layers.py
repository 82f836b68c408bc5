"""The house as docs/structure.md draws it: who may import whom, and where each library's door is."""

import ast
import itertools
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "itemic"

BELOW = {
    "core": set(),
    "data": {"core"},
    "embed": {"core"},
    "sid": {"core"},
    "language": {"core", "data", "sid"},
    "model": {"core", "sid", "language"},
    "decode": {"core", "sid", "language", "model"},
    "evaluate": {"core", "data", "embed", "sid", "language", "model", "decode"},
}
BELOW["baselines"] = BELOW["evaluate"] | {"evaluate"}
BELOW["hybrid"] = BELOW["baselines"] | {"baselines"}
BELOW["train"] = BELOW["baselines"] | {"baselines"}
BELOW["recipe"] = BELOW["train"] | {"train", "hybrid"}
BELOW["inference"] = BELOW["recipe"]
BELOW["titled"] = BELOW["recipe"] | {"inference"}
BELOW["lineage"] = BELOW["recipe"] | {"recipe"}
BELOW["pipeline"] = BELOW["recipe"] | {"recipe", "inference", "titled", "lineage"}
BELOW["studies"] = BELOW["pipeline"] | {"pipeline"}
BELOW["user_table"] = BELOW["recipe"] | {"inference"}
BELOW["upkeep"] = BELOW["recipe"]
BELOW["items_only"] = {"core", "data", "embed", "sid"}
BELOW["cli"] = BELOW["pipeline"] | {"pipeline", "studies", "upkeep", "items_only", "user_table"}
BELOW["__init__"] = {"core", "inference", "pipeline", "recipe", "user_table"}

ADAPTERS = {
    "transformers": {
        "model/backbone.py",
        "model/key_cache.py",
        "embed/hugging_face.py",
        "decode/adapters/hugging_face.py",
    },
    "tokenizers": {"model/backbone.py", "model/vocabulary.py"},
    "peft": {"model/adapters.py"},
    "accelerate": {"train/accelerator.py", "train/loop.py"},
    "sentence_transformers": {"embed/sentence_transformer.py"},
    "vllm": {"decode/adapters/vllm.py"},
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_go_down_only(path: Path) -> None:
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("itemic.")}
    allowed = BELOW[room(path)] | {room(path)}
    assert ours <= allowed, f"{path}: imports {sorted(ours - allowed)}, may import {sorted(allowed)}"


def test_every_room_is_drawn() -> None:
    assert {room(path) for path in modules()} <= set(BELOW)


def test_each_heavy_library_has_its_adapter_modules() -> None:
    found: dict[str, set[str]] = {name: set() for name in ADAPTERS}
    for path, name in itertools.product(modules(), ADAPTERS):
        if any(each == name or each.startswith(f"{name}.") for each in imported(path)):
            found[name].add(path.relative_to(SOURCE).as_posix())
    for name, places in ADAPTERS.items():
        assert found[name] <= places, f"{name} is imported outside its adapters: {sorted(found[name] - places)}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_public_names_are_sorted_and_there(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names = ast.literal_eval(node.value)
            constants = [name for name in names if name.isupper()]
            classes = [name for name in names if not name.isupper() and name[0].isupper()]
            others = [name for name in names if name not in constants and name not in classes]
            assert names == sorted(constants) + sorted(classes) + sorted(others)


def test_no_pickle_eval_or_remote_code() -> None:
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"eval", "exec"}, path
        assert not {name for name in imported(path) if name.split(".")[0] in ("pickle", "joblib", "dill")}, path
        keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
        assert "trust_remote_code" not in keywords, path


def test_files_and_functions_stay_readable() -> None:
    for path in modules():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 500, f"{path}: over 500 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, f"{path}: {node.name} is over 80 lines"


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    names = {requirement.split(">=")[0].split("[")[0].lower().replace("_", "-") for requirement in wanted}
    assert names - {"itemic"} <= pinned
