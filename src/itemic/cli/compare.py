"""The command ``compare``: one table of any runs, or the paired test of two ranking files."""

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from itemic.cli.printing import print_json
from itemic.core.errors import ConfigError

__all__ = ["run_compare"]

_SUFFIX = ".parquet"
_LAYOUTS = {".tex": "latex", ".md": "markdown", ".html": "html", ".json": "json", ".txt": "terminal"}


def run_compare(argv: list[str]) -> None:
    """Prints or writes the comparison of runs; of two ranking files the paired test as JSON."""
    arguments = _parser().parse_args(argv)
    files = [text for text in arguments.runs if text.endswith(_SUFFIX)]
    if files:
        _compare_files(arguments, files)
        return
    layout = _layout(arguments.layout, arguments.out)
    from itemic.core.files import atomic_path
    from itemic.evaluate.compare import CompareConfig, build_table, read_rows
    from itemic.evaluate.compare.render import render, render_terminal
    from itemic.evaluate.metrics.labels import spell_label

    config = CompareConfig(
        metrics=tuple(spell_label(label) for label in arguments.metrics.split(",") if label.strip()),
        against=arguments.against,
        seeds=arguments.seeds,
        confidence=arguments.confidence,
        num_resamples=arguments.num_resamples,
        seed=arguments.seed,
    )
    table = build_table([row for text in arguments.runs for row in read_rows(text)], config)
    if layout == "terminal" and arguments.out is None:
        width = shutil.get_terminal_size((120, 24)).columns
        text = render_terminal(table, beyond=arguments.beyond, width=width, colour=sys.stdout.isatty())
    else:
        text = render(table, layout, beyond=arguments.beyond)
    if arguments.out is None:
        print(text, end="")
        return
    with atomic_path(arguments.out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(arguments.out)


def _compare_files(arguments: argparse.Namespace, files: list[str]) -> None:
    if len(files) != 2 or len(arguments.runs) != 2:
        raise ConfigError(
            f"expected run folders (RUN or RUN:NAME), or two ranking files and nothing else, found {len(files)} "
            f"ranking files among {len(arguments.runs)}"
        )
    if arguments.out is not None or arguments.layout not in ("", "json"):
        raise ConfigError("the test of two ranking files is printed as JSON: leave --out and --format out")
    from itemic.evaluate.metrics.labels import spell_label
    from itemic.evaluate.significance import compare_runs

    print_json(asdict(compare_runs(Path(files[0]), Path(files[1]), spell_label(arguments.metric))))


def _layout(chosen: str, out: Path | None) -> str:
    """Returns the format: the one that is asked for, or that of the file's suffix."""
    by_suffix = "" if out is None else _LAYOUTS.get(out.suffix.lower(), "")
    if chosen and by_suffix and chosen != by_suffix:
        raise ConfigError(f"--format {chosen}: {out} is a file for {by_suffix}; name it otherwise, or leave --format")
    return chosen or by_suffix or "terminal"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="itemic compare",
        allow_abbrev=False,
        description="One table of any evaluated runs: intervals, corrected paired tests, published figures beside.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folder, or RUN:NAME for one of its recommenders; or two ranking files",
    )
    parser.add_argument("--metrics", default="", help="beside HR and NDCG at 10: HR@5,NDCG@5, say")
    parser.add_argument("--against", default="", help="row the others are compared with (default: the best by NDCG)")
    parser.add_argument(
        "--seeds",
        choices=["auto", "name", "apart"],
        default="auto",
        help="which rows are seeds of one: those of one name and the same settings (auto), of one name, or none",
    )
    parser.add_argument(
        "--beyond",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show coverage, novelty, speed and cost as well",
    )
    parser.add_argument(
        "--format",
        dest="layout",
        choices=["terminal", "markdown", "latex", "html", "json"],
        default="",
        help="by default that of the file's suffix (.tex, .md, .html, .json), else terminal",
    )
    parser.add_argument("-o", "--out", type=Path, help="file to write, at once and whole")
    parser.add_argument("--confidence", type=float, default=0.95, help="probability mass inside an interval")
    parser.add_argument("--num-resamples", type=int, default=10_000, help="bootstrap resamples, and swaps of a test")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    parser.add_argument("--metric", default="NDCG@10", help="of the paired test of two ranking files")
    return parser
