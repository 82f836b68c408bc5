"""Evaluated runs made by hand: which examples each recommender hits, and at which rank."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from itemic.evaluate import ranking_file_name

WriteRun = Callable[..., Path]

CUTOFFS = (1, 10)


_MEASURED = {"Coverage@10": {"value": 0.5}, "Novelty@10": {"value": 3.0}, "Coverage@1": {"value": 0.1}}


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes ``metrics.json`` and ``rankings/``; ranks are the numbers of items above the target, 10 for a miss."""

    def write(
        name: str,
        rows: Mapping[str, Sequence[int]],
        *,
        seed: int = 0,
        users: Sequence[str] = (),
        facts: Mapping[str, Mapping[str, Any]] | None = None,
        targets: Sequence[int] = (),
        **protocol: Any,
    ) -> Path:
        folder = tmp_path / name
        (folder / "rankings").mkdir(parents=True)
        num_examples = len(next(iter(rows.values())))
        entries = {}
        for each, num_better in rows.items():
            table = pl.DataFrame(
                {
                    "example_id": range(num_examples),
                    "user_id": users or [f"u{row}" for row in range(num_examples)],
                    "target": targets or [7] * num_examples,
                    "num_better": num_better,
                    "num_tied": [0 if above >= 10 else 1 for above in num_better],
                    "items": [list(range(10))] * num_examples,
                }
            )
            # Upside down: rows are found by their ids, not by their places.
            table.reverse().write_parquet(folder / "rankings" / ranking_file_name(each))
            known = {"metrics": _MEASURED, "settings": {"kind": each}, "users_per_s": 100.0 * (seed + 1)}
            entries[each] = known | dict((facts or {}).get(each, {}))
            entries[each]["metrics"] = _MEASURED | dict(entries[each]["metrics"])
        shown = {
            "split": "test",
            "num_examples": num_examples,
            "num_candidates": 20,
            "exclude_history": False,
            "cutoffs": list(CUTOFFS),
            "ties": "expected",
            "histories_hash": "the same in all",
            "seed": seed,
            "benchmark": "",
            **protocol,
        }
        (folder / "metrics.json").write_text(json.dumps({"protocol": shown, "recommenders": entries}))
        return folder

    return write
