"""One thin function a command, each by its name."""

import argparse
import functools
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from itemic.cli.catalog import run_catalog
from itemic.cli.printing import print_json
from itemic.cli.stages import run_all, run_one

__all__ = ["COMMANDS"]


def _recommend(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="itemic recommend", description="Recommend items after one history.")
    parser.add_argument("--run", type=Path, required=True, help="run folder with a trained model")
    parser.add_argument("--history", nargs="*", default=[], help="item ids or titles, oldest first")
    parser.add_argument("-k", "--k", type=int, default=10, help="number of items")
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
        print_json([asdict(item) for item in found])
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

    print_json(asdict(compare_runs(arguments.first, arguments.second, arguments.metric)))


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


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": run_all,
    **{
        name: functools.partial(run_one, name)
        for name in ("prepare", "embed", "collaborative", "tokenize", "align", "sft", "evaluate", "report")
    },
    "recommend": _recommend,
    "catalog": run_catalog,
    "compare": _compare,
    "export": _export,
}
"""Every command by name."""
