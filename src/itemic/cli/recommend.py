"""The command ``recommend``: items after one history, or for a table of users."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itemic.cli.model_flags import add_model_flags, model_settings
from itemic.cli.printing import print_json
from itemic.cli.recommend_table import add_table_flags, print_recommended_table, table_settings
from itemic.core.errors import ConfigError

if TYPE_CHECKING:
    from itemic.inference import RecommendedItems, TrainedRun

__all__ = ["run_recommend"]


def run_recommend(argv: list[str]) -> None:
    """Recommends items after one history, or for every user of a table."""
    arguments = _make_parser().parse_args(argv)
    settings = table_settings(arguments)
    if arguments.items is not None and not arguments.where:
        raise ConfigError("--items is what conditions read: give --where too")
    from itemic.inference import load_trained

    trained = load_trained(
        arguments.run,
        **model_settings(arguments),
        calibrated=not arguments.uncalibrated,
        items=arguments.items,
        blend=arguments.blend,
        **_diversity(arguments),
    )
    if arguments.users is None:
        _answer_one(trained, arguments)
    else:
        print_recommended_table(trained, arguments, settings)


def _answer_one(trained: "TrainedRun", arguments: argparse.Namespace) -> None:
    history, exclude = arguments.history or [], arguments.exclude or []
    where, exclude_seen = arguments.where or [], arguments.exclude_seen
    found = trained.recommend(
        history, arguments.k, exclude=exclude, allow=arguments.allow, where=where, exclude_seen=exclude_seen
    )
    if arguments.json:
        counts = {"num_allowed": found.num_allowed, "num_seen": found.num_seen, "k": arguments.k}
        print_json({"items": [asdict(item) for item in found], **counts})
    else:
        _print_items(found, arguments.k, arguments.max_per_prefix)


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="itemic recommend",
        allow_abbrev=False,
        description="Recommend items after one history, or for a table of users.",
        epilog="docs/decoding.md describes all of it: filters, tables, lists of unlike items, probabilities.",
    )
    add_model_flags(parser)
    parser.add_argument("--history", nargs="*", help="item ids or titles, oldest first")
    parser.add_argument("-k", "--k", type=int, default=10, help="number of items")
    parser.add_argument("--exclude", nargs="+", help="ids or titles that must not appear")
    parser.add_argument("--allow", nargs="+", help="the only ids or titles that may appear")
    parser.add_argument(
        "--where",
        action="append",
        help='condition, "stock > 0" say; of several all must hold. COLUMN = VALUE (or != < <= > >=), [not] in (A, B), '
        "[not] contains TEXT, within 30 days, is [not] null; joined by and, or, not, brackets. Quote several words",
    )
    parser.add_argument(
        "--items", type=Path, help="Parquet or CSV table of item_id and columns for --where, today's stock say"
    )
    parser.add_argument(
        "--exclude-seen",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether items of the history are left out (default: if the dataset holds no repeats)",
    )
    _add_diversity_flags(parser)
    parser.add_argument("--blend", action="store_true", help="rank by the run's blend instead of the model alone")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    add_table_flags(parser)
    return parser


def _add_diversity_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-per-prefix", type=int, help="most items of a list whose SIDs begin with the same codes")
    parser.add_argument("--prefix-levels", type=int, help="codes that --max-per-prefix looks at (default 1)")
    parser.add_argument(
        "--mmr",
        type=float,
        metavar="LAMBDA",
        help="re-rank so that items differ: 1 by probability alone, 0 by unlikeness",
    )
    parser.add_argument(
        "--uncalibrated", action="store_true", help="show the model's own probabilities in a calibrated run"
    )


def _diversity(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what the flags say of ``load_trained``'s quota and MMR."""
    from itemic.decode.diversity import MarginalRelevance, PrefixQuota

    levels, most, trade_off = arguments.prefix_levels, arguments.max_per_prefix, arguments.mmr
    if most is None and levels is not None:
        raise ConfigError("--prefix-levels says of which codes --max-per-prefix is; give that too")
    return {
        "quota": None if most is None else PrefixQuota(max_items=most, num_levels=1 if levels is None else levels),
        "mmr": None if trade_off is None else MarginalRelevance(trade_off=trade_off),
    }


def _print_items(found: "RecommendedItems", k: int, quota: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("rank", "id", "title", "SID", "probability")
    for item in found:
        table.add_row(str(item.rank), item.item_id, item.title, item.sid, f"{item.probability:.4f}")
    Console().print(table)
    if found.num_allowed < k:
        seen = f"; {found.num_seen} more are left out as seen (--no-exclude-seen lists them)" if found.num_seen else ""
        print(f"only {found.num_allowed} items are allowed, fewer than the {k} asked for{seen}", file=sys.stderr)
    if len(found) < min(k, found.num_allowed):
        reason = "were reached" if quota is None else f"fit --max-per-prefix {quota} and were reached"
        print(f"only {len(found)} of {found.num_allowed} allowed items {reason}", file=sys.stderr)
