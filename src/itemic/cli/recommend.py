"""The command ``recommend``: items after one history, or for a table of users."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from itemic.cli.printing import print_json
from itemic.cli.recommend_table import add_table_flags, print_recommended_table, table_settings

if TYPE_CHECKING:
    from itemic.inference import RecommendedItems

__all__ = ["run_recommend"]


def run_recommend(argv: list[str]) -> None:
    """Recommends items after one history, or for every user of a table."""
    parser = argparse.ArgumentParser(
        prog="itemic recommend", description="Recommend items after one history, or for a table of users."
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder with a trained model")
    parser.add_argument("--history", nargs="*", help="item ids or titles, oldest first")
    parser.add_argument("-k", "--k", type=int, default=10, help="number of items")
    parser.add_argument("--exclude", nargs="+", help="ids or titles that must not appear")
    parser.add_argument("--allow", nargs="+", help="the only ids or titles that may appear")
    parser.add_argument(
        "--where", action="append", help='condition on a catalogue column, "stock > 0" say; of several all must hold'
    )
    parser.add_argument("--num-beams", type=int, default=50, help="beam width")
    parser.add_argument("--batch-size", type=int, default=16, help="histories decoded at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:<n>")
    parser.add_argument(
        "--allow-catalog-change", action="store_true", help="use the model with another catalog than it was trained on"
    )
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    add_table_flags(parser)
    arguments = parser.parse_args(argv)
    settings = table_settings(arguments)
    from itemic.inference import load_trained

    trained = load_trained(
        arguments.run,
        num_beams=arguments.num_beams,
        batch_size=arguments.batch_size,
        device=arguments.device,
        allow_catalog_change=arguments.allow_catalog_change,
    )
    if arguments.users is not None:
        print_recommended_table(trained, arguments, settings)
        return
    history, exclude = arguments.history or [], arguments.exclude or []
    found = trained.recommend(history, arguments.k, exclude=exclude, allow=arguments.allow, where=arguments.where or [])
    if arguments.json:
        print_json([asdict(item) for item in found])
    else:
        _print_items(found, arguments.k)


def _print_items(found: "RecommendedItems", k: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("rank", "id", "title", "SID", "probability")
    for item in found:
        table.add_row(str(item.rank), item.item_id, item.title, item.sid, f"{item.probability:.4f}")
    Console().print(table)
    if found.num_allowed < k:
        print(f"only {found.num_allowed} items are allowed, fewer than the {k} asked for", file=sys.stderr)
    if len(found) < min(k, found.num_allowed):
        print(f"only {len(found)} of {found.num_allowed} allowed items were reached", file=sys.stderr)
