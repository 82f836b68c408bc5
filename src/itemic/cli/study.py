"""itemic study: many runs that answer one question, by the name of the kind of study."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from itemic.cli.printing import print_json
from itemic.core.errors import ConfigError

__all__ = ["run_study"]

_USAGE = """usage: itemic study KIND FILE [changes ...] --out FOLDER [options]          itemic study KIND --help

  ablate     what each of a recipe's settings is worth: a table with intervals and paired tests
  scaling    how the loss falls with parameters and data: a law with intervals, a frontier
  backbones  which backbone suits the data: many at a small budget, the best ones further
  transfer   what a model of one catalogue is worth on another: FILE is the source's recipe, the next the target's

FILE is a recipe, or a study's own YAML file, whose key recipe names one (beside it) and whose other keys are the
options below, - written as _. Every study can be killed and goes on; its folder gets report.html and report.md.
"""


def run_study(argv: list[str]) -> None:
    """Runs a study by its kind."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return
    if argv[0] not in _KINDS:
        raise ConfigError(f"no study {argv[0]!r}; there are {', '.join(_KINDS)}")
    _KINDS[argv[0]](argv[1:])


def _ablate(argv: list[str]) -> None:
    parser = _parser("ablate", "Change some of a recipe's keys, one at a time, and compare with it.")
    parser.add_argument("--vary", action="append", help="key=value,value,...: may be given several times")
    parser.add_argument("--grid", action="store_const", const=True, help="every value with every other key's")
    parser.add_argument("--seeds", help="seeds of each variant, 0,1,2 by default")
    parser.add_argument("--metric", help="ranking metric, NDCG@10 by default")
    parser.add_argument("--split", choices=["valid", "test"], help="examples that judge, valid by default")
    parser.add_argument("--test-best", action="store_const", const=True, help="evaluate base and best on test, once")
    parser.add_argument("--row", help="recommender that is judged; the model by default")
    arguments = parser.parse_intermixed_args(argv)
    from itemic.studies.ablation import AblationConfig, ablate
    from itemic.studies.variants import parse_vary

    values = _settings(arguments)
    _require(values, arguments.file, vary="sft.decoder.dropout=0.0,0.1")
    if isinstance(values["vary"], list):
        values["vary"] = dict(parse_vary(text) for text in values["vary"])
    found = ablate(_config(AblationConfig, values, arguments))
    _finish(arguments, found)


def _scaling(argv: list[str]) -> None:
    parser = _parser("scaling", "Train decoders of several sizes on shares of the data and fit a scaling law.")
    parser.add_argument("--sizes", help="decoders, width x layers: 32x2,64x2,128x3")
    parser.add_argument("--shares", help="shares of the users' training sequences: 0.125,0.25,0.5,1")
    parser.add_argument("--seeds", help="seeds of each cell, 0 by default")
    parser.add_argument("--parameters", choices=["non-embedding", "total"], help="what N counts")
    parser.add_argument("--tokens", choices=["seen", "unique"], help="what D counts")
    parser.add_argument("--num-bootstrap", type=int, help="resamples behind the intervals, 200 by default")
    arguments = parser.parse_intermixed_args(argv)
    from itemic.studies.scaling import ScalingConfig, scale

    values = _settings(arguments)
    _require(values, arguments.file, sizes="32x2,64x2,128x3", shares="0.25,0.5,1")
    _finish(arguments, scale(_config(ScalingConfig, values, arguments)))


def _transfer(argv: list[str]) -> None:
    parser = _parser("transfer", "Train on one catalogue and recommend from another: itemic study transfer FROM TO.")
    parser.add_argument("--modes", help="shared,refitted,text,extended,rl by default; also in-domain")
    parser.add_argument("--seeds", help="seeds of each mode's runs, 0 by default")
    parser.add_argument("--both", action="store_const", const=True, help="run the other direction too")
    parser.add_argument("--metric", help="ranking metric, NDCG@10 by default")
    parser.add_argument("--split", choices=["valid", "test"], help="examples that judge, valid by default")
    parser.add_argument("--against", help="reference that modes are compared with, text-knn by default")
    parser.add_argument("--extra-codes", type=int, help="codes of the level that extended adds, 16 by default")
    parser.add_argument("--words", type=int, help="words that a source model learns for text, 4000 by default")
    arguments = parser.parse_intermixed_args(argv)
    from itemic.studies.transfer import transfer
    from itemic.studies.transfer_config import TransferConfig

    values = _settings(arguments)
    if values["changes"] and "=" not in values["changes"][0]:
        values["target"] = values["changes"].pop(0)
    elif "target" in values:
        values["target"] = (arguments.file.parent / str(values["target"])).as_posix()
    else:
        raise ConfigError("expected two recipes, the source's and the target's")
    _finish(arguments, transfer(_config(TransferConfig, values, arguments)))


def _backbones(argv: list[str]) -> None:
    parser = _parser("backbones", "Train candidates a little, keep the best, double the budget, and so on.")
    parser.add_argument("--candidates", help="decoder:64x2,words:128x3,smollm2-135m: shapes, folders, models' names")
    parser.add_argument("--tasks", help="next_item,titles_to_sid,title_to_sid by default")
    parser.add_argument("--rungs", type=int, help="budgets, each twice the one before, 3 by default")
    parser.add_argument("--keep", type=float, help="share of the candidates that goes on, 0.5 by default")
    parser.add_argument("--budget-steps", type=int, help="optimiser steps of the first budget, 50 by default")
    parser.add_argument("--seed", type=int, help="seed of all runs, the recipe's by default")
    parser.add_argument("--words", type=int, help="most words that a words: candidate reads, 4000 by default")
    arguments = parser.parse_intermixed_args(argv)
    from itemic.studies.backbones import BackbonesConfig, screen_backbones

    _finish(arguments, screen_backbones(_config(BackbonesConfig, _settings(arguments), arguments)))


def _parser(kind: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"itemic study {kind}", description=description, allow_abbrev=False)
    parser.add_argument("file", type=Path, help="a recipe, or a study's YAML file")
    parser.add_argument("changes", nargs="*", help="changes to the recipe, sft.training.epochs=3 or data=FOLDER")
    parser.add_argument("--out", help="folder of the study")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the study's settings: those of its file, and the flags that were given over them."""
    from itemic.core.config import read_yaml
    from itemic.evaluate.metrics.labels import spell_label

    values = read_yaml(arguments.file)
    if "recipe" in values:
        values["recipe"] = (arguments.file.parent / str(values["recipe"])).as_posix()
    else:
        values = {"recipe": arguments.file.as_posix()}
    given = {key: value for key, value in vars(arguments).items() if key not in ("file", "changes", "json")}
    values |= {key: value for key, value in given.items() if value is not None}
    values["changes"] = [*values.get("changes", []), *arguments.changes]
    for key in ("seeds", "shares", "sizes", "modes", "candidates", "tasks"):
        if isinstance(values.get(key), str):
            values[key] = values[key].split(",")
    if isinstance(values.get("metric"), str):
        values["metric"] = spell_label(values["metric"])
    if "out" not in values:
        raise ConfigError("expected --out FOLDER, or the key out in the study's file")
    return values


def _require(values: dict[str, Any], file: Path, **examples: str) -> None:
    """Refuses a study whose file is a recipe, or lacks keys, where no flags give them."""
    lacking = [key for key in examples if not values.get(key)]
    if lacking:
        flags = " and ".join(f"--{key} {examples[key]}" for key in lacking)
        raise ConfigError(f"{file}: does not say {' and '.join(lacking)}: give {flags} (say), or a study's own file")


def _config(config_type: type[Any], values: dict[str, Any], arguments: argparse.Namespace) -> Any:
    from itemic.core.config import config_from_mapping

    return config_from_mapping(config_type, values, source=str(arguments.file))


def _finish(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    out = Path(_settings(arguments)["out"])
    if arguments.json:
        print_json(found)
        return
    print((out / "report.md").read_text(encoding="utf-8"))
    print(f"report: {out / 'report.html'}")


_KINDS: dict[str, Callable[[list[str]], None]] = {
    "ablate": _ablate,
    "scaling": _scaling,
    "backbones": _backbones,
    "transfer": _transfer,
}
