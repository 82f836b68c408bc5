"""``recommend --users``: items for everybody in a table."""

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itemic.cli.printing import print_json
from itemic.core.errors import ConfigError

if TYPE_CHECKING:
    from itemic.inference import TrainedRun
    from itemic.user_table import TableSummary

__all__ = ["add_table_flags", "print_recommended_table", "table_settings"]

_SETTINGS = {
    "out": "--out",
    "layout": "--format",
    "titles": "--no-titles",
    "unknown_items": "--unknown-items",
    "chunk_rows": "--chunk-rows",
    "restart": "--restart",
}
_FOR_ONE_HISTORY = {"history": "--history", "exclude": "--exclude", "allow": "--allow"}


def add_table_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a table of users; one that is not given leaves no trace, so that its default has one home."""
    table = parser.add_argument_group("for a table of users")
    table.add_argument(
        "--users",
        help="'all' for every user of the run's dataset; a Parquet table of user_id, history and maybe exclude and "
        "allow (lists of item ids, no titles); or a Parquet or CSV log of user_id, item_id and timestamp (without it "
        "rows are taken to be in order of time)",
    )
    none = argparse.SUPPRESS
    table.add_argument("--out", type=Path, default=none, help="Parquet file to write; a killed run goes on")
    table.add_argument(
        "--format",
        dest="layout",
        choices=["long", "lists"],
        default=none,
        help="a row a recommendation (default) or a row a user",
    )
    table.add_argument("--no-titles", dest="titles", action="store_false", default=none, help="leave out the titles")
    table.add_argument(
        "--unknown-items",
        choices=["error", "drop"],
        default=none,
        help="ids that no item has: stop (default), or leave them out and count them",
    )
    table.add_argument("--chunk-rows", type=int, default=none, help="users between two saves (default 1024)")
    table.add_argument(
        "--restart", action="store_true", default=none, help="throw away what an earlier run has finished of the table"
    )


def table_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the given settings of a table, none of them where one history is asked for.

    Raises:
        ConfigError: if flags of a table and of one history come together, or the file to write is missing.
    """
    given = {name: getattr(arguments, name) for name in _SETTINGS if hasattr(arguments, name)}
    if arguments.users is None:
        if given:
            raise ConfigError(f"{_flags(given, _SETTINGS)} is for a table of users: name it with --users")
        return {}
    for_one = [name for name in _FOR_ONE_HISTORY if getattr(arguments, name) is not None]
    if for_one:
        raise ConfigError(
            f"{_flags(for_one, _FOR_ONE_HISTORY)} is for one history and --users for a table of them: give one of the "
            "two; a table may have exclude and allow columns"
        )
    if "out" not in given:
        raise ConfigError("--users needs --out, the Parquet file to write")
    return given


def print_recommended_table(trained: "TrainedRun", arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Recommends for every user of the table, writes the file and prints what was counted."""
    from itemic.user_table import recommend_table

    if arguments.json:
        logging.getLogger("itemic").setLevel(logging.WARNING)
    settings = dict(settings)
    settings |= {"k": arguments.k, "where": arguments.where or [], "exclude_seen": arguments.exclude_seen}
    summary = recommend_table(trained, arguments.users, settings.pop("out"), **settings)
    if arguments.json:
        print_json(asdict(summary))
        return
    for line in _describe(summary, arguments.k):
        print(line)


def _describe(summary: "TableSummary", k: int) -> list[str]:
    done = f"{summary.target}: {summary.num_recommendations:,} recommendations for {summary.num_users:,} users"
    num_now = summary.num_users - summary.num_resumed_users
    lines = [f"{done} in {summary.wall_time_s:.1f} s ({num_now / summary.wall_time_s:.3g} users/s)"]
    notes = {
        f"{summary.num_resumed_users:,} users were done before the run was killed": summary.num_resumed_users,
        f"{summary.num_short_users:,} users got fewer than {k}: no more items are allowed, or were reached by the "
        "beams": summary.num_short_users,
        f"{summary.num_empty_histories:,} users have an empty history": summary.num_empty_histories,
        f"{summary.num_dropped_items:,} unknown ids were left out": summary.num_dropped_items,
    }
    return lines + [f"  {text}" for text, count in notes.items() if count]


def _flags(names: Any, flags: dict[str, str]) -> str:
    return ", ".join(flags[name] for name in names)
