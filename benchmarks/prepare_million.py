"""Prepares a synthetic log of a million interactions and prints seconds (wall and processor) and peak memory.

    python benchmarks/prepare_million.py [--interactions 1000000] [--max-history 50] [--split temporal]

The log (CSV, with Zipf-like items, duplicates, repeats and a few bad rows) is written first; the stage then runs in a
process of its own, so that its peak memory is its own. The split is checked before anything is printed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from itemic.core.dataset import Dataset
from itemic.core.run import Run
from itemic.data import PrepareConfig, TableConfig, prepare

NUM_USERS, NUM_ITEMS = 60_000, 20_000


def write_log(folder: Path, num_interactions: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, NUM_ITEMS + 1) ** 0.8
    items = rng.choice(NUM_ITEMS, size=num_interactions, p=popularity / popularity.sum())
    users = rng.integers(NUM_USERS, size=num_interactions)
    times = rng.integers(1_500_000_000, 1_600_000_000, size=num_interactions)
    log = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times}).cast({"timestamp": pl.String})
    log = log.with_columns(pl.col("user_id", "item_id").cast(pl.String).str.zfill(12))
    bad = log.head(num_interactions // 1000).with_columns(pl.lit("soon").alias("timestamp"))
    pl.concat([log, log.tail(num_interactions // 100), bad]).write_csv(folder / "log.csv")
    ids = pl.Series("item_id", range(NUM_ITEMS)).cast(pl.String).str.zfill(12)
    titles = pl.Series("title", [f"Item number {item} of the catalogue" for item in range(NUM_ITEMS)])
    pl.DataFrame([ids, titles]).with_columns(description=pl.lit("A few words on it.")).write_csv(folder / "items.csv")


def measure(folder: Path, max_history: int, split: str) -> None:
    """Prepares the log in ``folder`` and prints what it took and what came out."""
    config = PrepareConfig(
        source=TableConfig(interactions=str(folder / "log.csv"), items=str(folder / "items.csv")),
        min_user_interactions=5,
        min_item_interactions=5,
        max_history=max_history,
        split=split,  # type: ignore[arg-type]
    )
    started, cpu_started = time.perf_counter(), time.process_time()
    result = prepare(config, Run(folder / "run"), seed=0)
    times = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu_started}
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**{key: round(value, 2) for key, value in times.items()}, "peak_mib": round(peak_mib)}))
    print(json.dumps(result.metrics))


def check(dataset: Dataset, max_history: int) -> None:
    """Rebuilds a thousand histories one by one and compares them."""
    sequences = dict(dataset.interactions.group_by("user_id", maintain_order=True).agg("item_index").iter_rows())
    for row in dataset.test.sample(min(1000, dataset.test.height), seed=0).iter_rows(named=True):
        items = sequences[row["user_id"]]
        ends = [end for end in range(1, len(items)) if items[end] == row["target"]]
        assert any(items[max(0, end - max_history) : end] == row["history"] for end in ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--max-history", type=int, default=50)
    parser.add_argument("--split", choices=("leave_one_out", "temporal"), default="leave_one_out")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.max_history, arguments.split)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder, arguments.interactions)
        options = ["--max-history", str(arguments.max_history), "--split", arguments.split]
        command = [sys.executable, __file__, "--measure", name, *options]
        outcome = subprocess.run(command, check=True, capture_output=True, text=True)
        check(Dataset.load(folder / "run" / "dataset"), arguments.max_history)
        print(outcome.stdout.strip())


if __name__ == "__main__":
    main()
