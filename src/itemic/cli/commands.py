"""One thin function a command."""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from itemic.core.errors import ConfigError

__all__ = ["COMMANDS"]


def _run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="itemic run", description="Run all stages of a recipe.")
    parser.add_argument("recipe", type=Path, help="YAML file")
    parser.add_argument("changes", nargs="*", help="changes such as sft.training.epochs=3 or data=FOLDER")
    parser.add_argument("--run", type=Path, help="run folder instead of the recipe's")
    parser.add_argument("--stages", default="", help="only these stages, prepare,embed say")
    parser.add_argument("--force", action="store_true", help="run even what is unchanged")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    arguments = parser.parse_intermixed_args(argv)
    from itemic.pipeline import run_recipe
    from itemic.recipe import load_recipe, with_run

    recipe = with_run(load_recipe(arguments.recipe, tuple(arguments.changes)), arguments.run)
    results = run_recipe(recipe, stages=[name for name in arguments.stages.split(",") if name], force=arguments.force)
    if arguments.json:
        _print_json({result.name: result.metrics for result in results})
        return
    folder = Path(recipe.run)
    if any(result.name == "evaluate" for result in results):
        _print_metrics(folder)
    if any(result.name == "report" for result in results):
        print(f"report: {folder / 'report.html'}")


def _stage(name: str, argv: list[str]) -> None:
    """Runs one stage: flags over the recipe, the recipe over what the run folder remembers."""
    parser = argparse.ArgumentParser(prog=f"itemic {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--json", action="store_true")
    if name == "tokenize":
        parser.add_argument("--report", action="store_true")
        for flag in ("--items", "--vectors", "--vector-ids"):
            parser.add_argument(flag, type=Path)
    known, rest = parser.parse_known_args(argv)
    if name == "tokenize" and (known.items or known.vectors):
        _tokenize_items(known, rest)
        return
    from itemic.pipeline import run_stage
    from itemic.recipe import with_run

    recipe = _stage_recipe(name, known, rest)
    if known.seed is not None:
        recipe = replace(recipe, seed=known.seed)
    recipe = with_run(recipe, known.run)
    result = run_stage(recipe, name, force=known.force)
    page = _write_sid_page(Path(recipe.run), recipe.seed) if name == "tokenize" and known.report else None
    if known.json:
        _print_json(result.metrics)
    elif name == "evaluate":
        _print_metrics(Path(recipe.run))
    elif name == "report":
        print(f"report: {Path(recipe.run) / 'report.html'}")
    else:
        _print_figures(name, result.metrics)
    if page and not known.json:
        print(f"report: {page}")


def _tokenize_items(known: argparse.Namespace, rest: list[str]) -> None:
    """Makes a run of a catalogue alone, without a recipe."""
    import tyro

    from itemic.core.run import Run
    from itemic.embed.embed import EmbedConfig
    from itemic.items_only import tokenize_items
    from itemic.sid.tokenize import TokenizeConfig

    if known.run is None or known.recipe is not None:
        raise ConfigError("itemic tokenize --items or --vectors makes a run of its own: give --run, and no --recipe")
    config = tyro.cli(TokenizeConfig, prog="itemic tokenize", args=rest)
    embed_config = EmbedConfig(vectors=str(known.vectors or ""), vector_ids=str(known.vector_ids or ""))
    seed = known.seed or 0
    result = tokenize_items(
        config, Run(known.run), items=known.items, embed_config=embed_config, seed=seed, force=known.force
    )
    page = _write_sid_page(known.run, seed) if known.report else None
    if known.json:
        _print_json(result.metrics)
        return
    _print_figures("tokenize", result.metrics)
    if page:
        print(f"report: {page}")


def _write_sid_page(run: Path, seed: int) -> Path:
    from itemic.core.run import Run
    from itemic.sid.report import write_sid_report

    return write_sid_report(Run(run), seed=seed)


def _stage_recipe(name: str, known: argparse.Namespace, rest: list[str]) -> Any:
    """Returns the recipe whose section ``name`` has the flags in it."""
    import tyro

    from itemic.baselines.item_vectors import CollaborativeConfig
    from itemic.data.prepare import PrepareConfig
    from itemic.recipe import Recipe, load_recipe

    path = known.recipe or (known.run / "recipe.yaml" if known.run else None)
    help_only = "-h" in rest or "--help" in rest
    common = (
        "Besides the flags below: --run FOLDER, --recipe FILE (default: FOLDER/recipe.yaml), --seed N, --force, --json."
    )
    if name == "tokenize":
        common += (
            " --report writes sids.html besides, a page of the codes that opens offline. A catalogue without a log "
            "needs no recipe: --run NEW --items FILE (item_id, title, ...), or --vectors FILE (.parquet with item_id; "
            ".npy or .safetensors with --vector-ids FILE), or both."
        )
    if name == "prepare":
        common += " Without a recipe name the source first: source:table-config --source.interactions FILE ..."
    parse = functools.partial(tyro.cli, prog=f"itemic {name}", description=common, args=rest)
    if path is not None and path.is_file() and not help_only:
        recipe = load_recipe(path)
        section = getattr(recipe, name)
        if section is None:
            raise ConfigError(f"{path}: has no section {name}")
        return replace(recipe, **{name: parse(type(section), default=section)})
    if name == "prepare":
        return Recipe(prepare=parse(PrepareConfig))
    if help_only:
        types: dict[str, Any] = {field.name: field.default_factory for field in fields(Recipe)}
        types |= {"align": types["sft"], "collaborative": CollaborativeConfig}
        parse(types[name])
    raise ConfigError(f"expected --recipe FILE, or --run with a folder in which itemic {name} can find recipe.yaml")


def _recommend(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="itemic recommend", description="Recommend items after one history.")
    parser.add_argument("--run", type=Path, required=True, help="run folder with a trained model")
    parser.add_argument("--history", nargs="*", default=[], help="item ids or titles, oldest first")
    parser.add_argument("--k", type=int, default=10, help="number of items")
    parser.add_argument("--exclude", nargs="+", default=[], help="ids or titles that must not appear")
    parser.add_argument("--allow", nargs="+", help="the only ids or titles that may appear")
    parser.add_argument("--num-beams", type=int, default=50, help="beam width")
    parser.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:<n>")
    parser.add_argument(
        "--allow-catalog-change", action="store_true", help="use the model with another catalog than it was trained on"
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    arguments = parser.parse_args(argv)
    from itemic.inference import load_trained

    trained = load_trained(
        arguments.run,
        num_beams=arguments.num_beams,
        device=arguments.device,
        allow_catalog_change=arguments.allow_catalog_change,
    )
    found = trained.recommend(arguments.history, arguments.k, exclude=arguments.exclude, allow=arguments.allow)
    if arguments.json:
        _print_json([asdict(item) for item in found])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("rank", "id", "title", "SID", "probability")
    for item in found:
        table.add_row(str(item.rank), item.item_id, item.title, item.sid, f"{item.probability:.4f}")
    Console().print(table)
    if len(found) < arguments.k:
        print(f"only {len(found)} of {arguments.k} items are allowed and were reached", file=sys.stderr)


def _compare(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="itemic compare", description="Paired test between two rankings.")
    parser.add_argument("first", type=Path, help="rankings/<name>.parquet of one run")
    parser.add_argument("second", type=Path, help="rankings/<name>.parquet of the other")
    parser.add_argument("--metric", default="NDCG@10")
    arguments = parser.parse_args(argv)
    from itemic.evaluate.significance import compare_runs

    _print_json(asdict(compare_runs(arguments.first, arguments.second, arguments.metric)))


def _export(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="itemic export", description="Write a run's dataset and SIDs.")
    parser.add_argument("--run", type=Path, required=True, help="run folder with a dataset and a catalog")
    parser.add_argument("--to", choices=["minionerec"], required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--category", default="Items", help="how the files are named")
    arguments = parser.parse_args(argv)
    from itemic.core.dataset import Dataset
    from itemic.core.run import Run
    from itemic.data.export import export_minionerec
    from itemic.language.spelling import Spelling
    from itemic.sid.catalog import Catalog

    run = Run(arguments.run)
    dataset = Dataset.load(run.require("dataset", "prepare"))
    catalog = Catalog.load(run.require("catalog", "tokenize"))
    catalog.check_fits(dataset.items["item_id"].to_list())
    spelling = Spelling.of("plain", catalog.codebook_sizes)
    for path in export_minionerec(dataset, catalog.codes, spelling.token, arguments.out, arguments.category):
        print(path)


def _catalog(argv: list[str]) -> None:
    arguments = _catalog_parser().parse_args(argv)
    from itemic import upkeep

    if arguments.action == "show":
        shown = upkeep.describe_catalog(arguments.run)
        _print_json(shown) if arguments.json else _print_catalog(shown)
        return
    if arguments.action == "append":
        figures = upkeep.append_to_run(arguments.run, arguments.items, arguments.out)
    elif arguments.action == "retire":
        listed = arguments.file.read_text(encoding="utf-8").splitlines() if arguments.file else []
        queries = [*arguments.items, *(line for line in listed if line.strip())]
        figures = upkeep.retire_from_run(arguments.run, queries, arguments.out)
    else:
        figures = upkeep.refit_run(arguments.run, arguments.out)
    if arguments.json:
        _print_json(figures)
    else:
        _print_upkeep(arguments.action, figures)


def _catalog_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="itemic catalog", description="Look at a run's catalog, or make a new run in which it has changed."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    helps = {
        "show": "size, version, what it grew from, what the model was trained on",
        "append": "add items; every code stays",
        "retire": "take items out of recommendations; every code stays",
        "refit": "learn the codes anew; the model must be trained again",
    }
    for name, text in helps.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        action.add_argument("--run", type=Path, required=True, help="run folder; it is not touched")
        if name != "show":
            action.add_argument("--out", type=Path, required=True, help="folder of the new run")
        if name == "append":
            action.add_argument("--items", type=Path, required=True, help="table: .csv, .tsv, .jsonl or .parquet")
        if name == "retire":
            action.add_argument("--items", nargs="+", default=[], help="ids or titles")
            action.add_argument("--file", type=Path, help="text file with an id or title a line")
        action.add_argument("--json", action="store_true", help="print results as JSON")
    return parser


def _print_catalog(shown: dict[str, Any]) -> None:
    """Prints a catalog line by line."""
    sizes = " x ".join(map(str, shown["codebook_sizes"]))
    print(f"catalog {shown['version'][:12]}: {shown['num_items']} items, SIDs of {sizes} codes ({shown['spelling']})")
    print(f"active: {shown['num_active']}, retired: {shown['num_retired']}")
    if shown["collisions"] and shown["collisions"]["rate"] > 0:
        rate, fullest = shown["collisions"]["rate"], shown["collisions"]["max_items"]
        print(f"collisions: {rate:.2%} of active items repeat a SID, {fullest} items are on the fullest")
    else:
        print("collisions: none")
    print(f"model: {shown['model']}")
    for parent in shown["parents"]:
        print(f"grew from {parent['version'][:12]}: {parent['num_items']} items, {parent['num_active']} active")
    if shown["refit_of"]:
        print(f"refit of {shown['refit_of'][:12]}")


def _print_upkeep(action: str, figures: dict[str, Any]) -> None:
    """Prints what became of a catalog, and what can be done with it."""
    before, after, run = figures["catalog_before"][:12], figures["catalog_after"][:12], figures["run"]
    print(f"{run}: catalog {before} became {after}: {figures['num_items']} items, {figures['num_active']} active")
    if action == "refit":
        kept = ", ".join(f"{share:.1%} the first {n}" for n, share in enumerate(figures["share_with_same_prefix"], 1))
        print(f"of the active items kept their codes: {kept}; every item in {run}/catalog/mapping.parquet")
        print(f"next: itemic sft --run {run}")
        return
    changed = f"{figures['num_new']} items are new" if action == "append" else f"{figures['num_retired']} items retired"
    print(f"{changed}; every other code is as it was")
    print(f"next: itemic recommend --run {run} --allow-catalog-change, or train on it: itemic sft --run {run}")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_figures(name: str, figures: dict[str, Any]) -> None:
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items() if not isinstance(value, dict)))


def _print_metrics(folder: Path) -> None:
    from rich.console import Console

    from itemic.core.files import read_json
    from itemic.evaluate.report.table import metrics_table

    Console().print(metrics_table(read_json(folder / "metrics.json")))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": _run,
    **{
        name: functools.partial(_stage, name)
        for name in ("prepare", "embed", "collaborative", "tokenize", "align", "sft", "evaluate", "report")
    },
    "recommend": _recommend,
    "catalog": _catalog,
    "compare": _compare,
    "export": _export,
}
"""Every command by name."""
