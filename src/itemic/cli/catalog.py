"""The command catalog: look at a run's catalog, or make a new run in which it has changed."""

import argparse
from pathlib import Path
from typing import Any

from itemic.cli.printing import print_json

__all__ = ["run_catalog"]


def run_catalog(argv: list[str]) -> None:
    """Shows a catalog, or appends, retires or refits its items in a new run."""
    arguments = _catalog_parser().parse_args(argv)
    from itemic import upkeep

    if arguments.action == "show":
        shown = upkeep.describe_catalog(arguments.run)
        print_json(shown) if arguments.json else _print_catalog(shown)
        return
    if arguments.action == "append":
        figures = upkeep.append_to_run(
            arguments.run,
            arguments.items,
            arguments.out,
            vectors=arguments.embeddings,
            vector_ids=arguments.embedding_ids,
        )
    elif arguments.action == "retire":
        listed = arguments.file.read_text(encoding="utf-8").splitlines() if arguments.file else []
        queries = [*arguments.items, *(line.strip() for line in listed if line.strip())]
        figures = upkeep.retire_from_run(arguments.run, queries, arguments.out)
    else:
        figures = upkeep.refit_run(arguments.run, arguments.out)
    if arguments.json:
        print_json(figures)
    else:
        _print_upkeep(arguments.action, figures)


def _catalog_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="itemic catalog",
        allow_abbrev=False,
        description="Look at a run's catalog, or make a new run in which it has changed.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    helps = {
        "show": "size, version, what it grew from, what the model was trained on",
        "append": "add items; every code stays",
        "retire": "take items out of recommendations; every code stays",
        "refit": "learn the codes anew; the model must be trained again",
    }
    for name, text in helps.items():
        action = actions.add_parser(name, allow_abbrev=False, help=text, description=text[0].upper() + text[1:] + ".")
        action.add_argument("--run", type=Path, required=True, help="run folder; it is not touched")
        if name != "show":
            action.add_argument("--out", type=Path, required=True, help="folder of the new run")
        if name == "append":
            action.add_argument("--items", type=Path, required=True, help="table: .csv, .tsv, .jsonl or .parquet")
            given = "vectors of the new items, for a run whose vectors were given: .parquet, .npy or .safetensors"
            action.add_argument("--embeddings", type=Path, help=given)
            action.add_argument("--embedding-ids", type=Path, help="text file with the item id of each vector a line")
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
    if shown["model_after_rl"]:
        print(f"model after RL: {shown['model_after_rl']}")
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
        print(f"of the active items kept their codes: {kept}; every item in {run}/{figures['mapping']}")
        if (Path(run) / "recipe.yaml").exists():
            print(f"next: itemic sft --run {run}")
        return
    changed = f"{figures['num_new']} items are new" if action == "append" else f"{figures['num_retired']} items retired"
    print(f"{changed}; every other code is as it was")
    if (Path(run) / "model").exists():
        again = f"itemic sft --run {run}" + (
            f", itemic rl --run {run}" if (Path(run) / "rl" / "model").exists() else ""
        )
        print(f"next: itemic recommend --run {run} --allow-catalog-change, or train on it: {again}")
