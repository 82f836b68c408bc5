"""The command ``recommend``: items after one history."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from itemic.cli.printing import print_json

__all__ = ["run_recommend"]


def run_recommend(argv: list[str]) -> None:
    """Recommends items after one history."""
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
