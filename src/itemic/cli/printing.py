"""What several commands print."""

import json
from pathlib import Path
from typing import Any

__all__ = ["print_figures", "print_json", "print_metrics"]


def print_json(value: Any) -> None:
    """Prints a value for machines."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_figures(name: str, figures: dict[str, Any]) -> None:
    """Prints a stage's figures as one line."""
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items() if not isinstance(value, dict)))


def print_metrics(folder: Path) -> None:
    """Prints the table of a run's ``metrics.json``."""
    from rich.console import Console

    from itemic.core.files import read_json
    from itemic.evaluate.report.table import metrics_table

    Console().print(metrics_table(read_json(folder / "metrics.json")))
