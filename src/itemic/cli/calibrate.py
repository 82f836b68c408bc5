"""The command ``calibrate``: makes a run's probabilities mean what they say."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from itemic.cli.model_flags import add_model_flags, model_settings
from itemic.cli.printing import print_json

if TYPE_CHECKING:
    from itemic.core.calibration import Calibration

__all__ = ["run_calibrate"]


def run_calibrate(argv: list[str]) -> None:
    """Fits the curve from stated to actual probabilities on validation examples and writes it into the run."""
    parser = argparse.ArgumentParser(
        prog="itemic calibrate",
        allow_abbrev=False,
        description="Fit listed probabilities to how often they are right on the validation split; writes "
        "calibration.json (rl/calibration.json for the model after RL), which itemic recommend then uses.",
    )
    add_model_flags(parser)
    parser.add_argument("--max-examples", type=int, default=2000, help="validation examples, drawn by the seed; 0: all")
    parser.add_argument("--list-length", type=int, default=50, help="items of each list that are looked at")
    parser.add_argument("--seed", type=int, default=0, help="draws the examples and the folds of the held-out check")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    arguments = parser.parse_args(argv)
    from itemic.evaluate.calibration import CalibrateConfig, calibrate, collect_probabilities
    from itemic.inference import load_trained, save_calibration

    config = CalibrateConfig(max_examples=arguments.max_examples, list_length=arguments.list_length)
    trained = load_trained(arguments.run, **model_settings(arguments), calibrated=False)
    listed = collect_probabilities(trained.recommender, trained.dataset, config, seed=arguments.seed)
    calibration = calibrate(listed, config, seed=arguments.seed)
    path = save_calibration(arguments.run, trained, calibration)
    if arguments.json:
        print_json({"dtype": trained.precision, **calibration.figures})
    else:
        _print_figures(calibration, path)


def _print_figures(calibration: "Calibration", path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    before, after = calibration.figures["before"], calibration.figures["after (held out)"]
    table = Table("items", "stated", "hits", "calibrated, held out", "hits")
    for stated, calibrated in zip(before["reliability"], after["reliability"], strict=True):
        shares = (stated["mean_probability"], stated["hit_frequency"])
        again = (calibrated["mean_probability"], calibrated["hit_frequency"])
        table.add_row(str(stated["num_items"]), *(f"{share:.4f}" for share in (*shares, *again)))
    Console().print(table)
    for name in ("ECE", "ECE of the first", "expected hits / hits"):
        print(f"{name}: {before[name]:.4f} before, {after[name]:.4f} after (held out)")
    print(path)
