"""What several commands print."""

import json
from pathlib import Path
from typing import Any

__all__ = ["print_figures", "print_json", "print_metrics"]

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


def print_metrics(folder: Path) -> None:
    """Prints the table of a run's ``metrics.json``."""
    from rich.console import Console

    from itemic.core.files import read_json
    from itemic.evaluate.report.table import metrics_table

    Console().print(metrics_table(read_json(folder / "metrics.json")))
