"""What several commands print."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["print_baselines", "print_blend", "print_figures", "print_json", "print_metrics", "print_rl"]

_HASH_LENGTH = 64


def print_json(value: Any) -> None:
    """Prints a value for machines."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_figures(name: str, figures: dict[str, Any]) -> None:
    """Prints a stage's figures as one line, rounded for reading; ``print_json`` has all digits."""
    shown = {key: value for key, value in figures.items() if value is not None and not isinstance(value, dict)}
    print(f"{name}: " + "; ".join(f"{key.replace('_', ' ')} {_write_figure(value)}" for key, value in shown.items()))


def _write_figure(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_write_figure, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    # A hash: nobody reads more of it.
    return text[:12] if len(text) == _HASH_LENGTH else text


def print_baselines(folder: Path) -> None:
    """Prints a line for each fitted row of a run: its time, and what a search chose by which figure of valid."""
    from itemic.baselines.search import write_settings
    from itemic.core.files import read_json
    from itemic.core.run import Run

    rows = Run(folder).manifest()["stages"]["baselines"]["config"]["rows"]
    width = max(map(len, rows), default=0)
    for key, row in rows.items():
        card = read_json(folder / "baselines" / f"{key}.json")
        line = f"{key:<{width}}  fitted in {card['fit_s']:.1f} s"
        if card["valid"] is not None:
            chosen = write_settings(card["settings"], row["search"])
            line += f"; {chosen}, the best of {len(card['trials'])} with valid NDCG@10 {card['valid']:.4f}"
        print(line)
    print(f"baselines: {len(rows)} rows in {folder / 'baselines'}; next: itemic evaluate --run {folder}")


def print_blend(folder: Path) -> None:
    """Prints what a blend and each of its members reach on valid, its weights, and where they are."""
    from itemic.core.files import read_json

    path = folder / "blend.json"
    card = read_json(path)
    figures = {**card["valid"]["members"], "blend, out of fold": card["valid"]["out_of_fold"]}
    width = max(map(len, figures))
    for name, reached in figures.items():
        print(f"{name:<{width}}  " + "  ".join(f"{label} {reached[label]:.4f}" for label in ("HR@10", "NDCG@10")))
    print("weights: " + "; ".join(f"{name} {value:.3g}" for name, value in card["weights"].items()))
    print(f"blend: {path}, l2 {card['l2']:g}, fitted to {card['num_examples']} examples of valid")


def print_metrics(folder: Path) -> None:
    """Prints the table of a run's ``metrics.json``, what cold targets got, and what RL gained where both models are."""
    from rich.console import Console

    from itemic.core.files import read_json
    from itemic.evaluate.report.focus import pick_cutoff
    from itemic.evaluate.report.gain import rl_gain
    from itemic.evaluate.report.table import metrics_table, temperature_table

    metrics = read_json(folder / "metrics.json")
    console = Console()
    console.print(metrics_table(metrics, width=console.width))
    temperatures = temperature_table(metrics)
    if temperatures is not None:
        console.print(temperatures)
    gain = rl_gain(metrics, pick_cutoff(metrics, None))
    if gain is not None:
        print(gain.text)


def print_rl(folder: Path, figures: Mapping[str, Any], *, is_last: bool = True) -> None:
    """Prints what ``rl`` gained on validation, where its log lies and what comes next.

    Args:
        folder: The run.
        figures: The stage's.
        is_last: Whether nothing else of the run was asked for.
    """
    path = folder / "rl" / "rl.jsonl"
    steps = f"step {figures['best_step']} of {figures['num_steps']}"
    if figures.get("stopped_early"):
        steps += ", stopped early"
    parts = [", ".join([*_validation_gains(path, figures["best_step"]), steps]), f"log {path}"]
    if is_last:
        parts.append(f"next: itemic evaluate --run {folder}")
    print("rl: " + "; ".join(parts))


def _validation_gains(path: Path, best_step: int) -> list[str]:
    """Returns the validation before the first step beside the one of the model that is kept."""
    from itemic.evaluate.report.artifacts import read_training_log

    by_step = {record["step"]: record for record in read_training_log(path).valid}
    if 0 not in by_step or best_step not in by_step:
        return ["no validation"]
    before, after = by_step[0], by_step[best_step]
    gains = [
        f"{label} {before[key]:.4f} -> {after[key]:.4f}" + _relative(before[key], after[key])
        for key, label in (("valid_ndcg@10", "NDCG@10"), ("valid_hr@50", "HR@50"))
        if key in before and key in after
    ]
    return [f"validation {gains[0]}", *gains[1:]] if gains else ["no validation"]


def _relative(before: float, after: float) -> str:
    return f" ({after / before - 1:+.1%})" if before else ""
