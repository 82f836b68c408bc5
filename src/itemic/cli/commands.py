"""One thin function a command, each by its name."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

from itemic.cli.calibrate import run_calibrate
from itemic.cli.catalog import run_catalog
from itemic.cli.compare import run_compare
from itemic.cli.recommend import run_recommend
from itemic.cli.stages import run_all, run_one
from itemic.cli.study import run_study

__all__ = ["COMMANDS"]


def _export(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="itemic export", allow_abbrev=False, description="Write a run's dataset and SIDs."
    )
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
        for name in (
            "prepare",
            "embed",
            "collaborative",
            "tokenize",
            "align",
            "sft",
            "rl",
            "baselines",
            "blend",
            "evaluate",
            "report",
        )
    },
    "recommend": run_recommend,
    "calibrate": run_calibrate,
    "catalog": run_catalog,
    "compare": run_compare,
    "export": _export,
    "study": run_study,
}
"""Every command by name."""
