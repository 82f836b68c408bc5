"""Every quantizer of itemic beside those of other projects: seconds, error, collisions, use of the codes, memory.

    python benchmarks/sid_quantizers.py --vectors RUN/embeddings.safetensors [--openonerec PATH] [--minionerec PATH]
    python benchmarks/sid_quantizers.py --texts items.jsonl.gz --held-out
    python benchmarks/sid_quantizers.py --synthetic 1000000 --only "itemic rqkmeans" faiss

Each contestant runs in a fresh process with the same number of threads; a quick one runs with several seeds, and the
median of each figure counts. Nobody's own figures are believed: codes are checked for range and shape, the error is
computed from what they decode to, and collisions, perplexity and (for itemic) the unique codes from the codes.
Seconds are fit + encode, on the clock and of the process's processor time; imports and reading are not counted. With
``--held-out`` a second fit, not timed, learns from nine tenths and its error on the last tenth is given too.

A peer that is not installed, or whose path is not given, is named as such. PATH is a checkout: of OpenOneRec
(``tokenizer/res_kmeans.py``), of MiniOneRec (``rq/rqkmeans_constrained.py``, with the package k-means-constrained).
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file

from itemic.embed import EmbedConfig, embed_texts

HERE = Path(__file__).parent
TABLE = (
    ("contestant", "name"),
    ("fit + encode s", "seconds"),
    ("CPU s", "cpu_s"),
    ("relative error", "error"),
    ("on new items", "held_out_error"),
    ("collisions", "collisions"),
    ("unique s", "unique_s"),
    ("collisions, error after", "after"),
    ("perplexity", "perplexity"),
    ("peak MiB", "peak_mib"),
    ("fastest rival of no larger error", "rival"),
)


def write_synthetic(path: Path, num_items: int, width: int, seed: int = 0) -> None:
    """Writes unit vectors: clusters of clusters whose sizes fall as 1/rank, heavy-tailed noise of falling spectrum."""
    rng = np.random.default_rng(seed)
    topics, topic_of = rng.normal(size=(64, width)), rng.integers(64, size=2048)
    centres = topics[topic_of] + 0.7 * rng.normal(size=(2048, width))
    popularity = 1 / np.arange(1, 2049)
    spectrum = np.arange(1, width + 1) ** -0.5
    spectrum *= 1.2 * math.sqrt(width) / np.linalg.norm(spectrum)
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0]
    x = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(num_items, width))
    for first in range(0, num_items, 1 << 16):
        count = min(1 << 16, num_items - first)
        noise = (rng.normal(size=(count, width)) * spectrum) @ basis
        # Student's t with 4 degrees of freedom: some items lie far from any cluster.
        noise *= np.sqrt(4 / rng.chisquare(4, size=(count, 1)))
        rows = centres[rng.choice(2048, size=count, p=popularity / popularity.sum())] + noise
        x[first : first + count] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    x.flush()


def read_vectors(arguments: argparse.Namespace, folder: Path) -> Path:
    """Returns a .npy file of the vectors to quantize."""
    path = folder / "vectors.npy"
    if arguments.synthetic:
        write_synthetic(path, arguments.synthetic, arguments.width)
    elif arguments.texts:
        items = pl.read_ndjson(arguments.texts)
        texts = (
            items.select(pl.concat_str("title", "description", separator=" ", ignore_nulls=True)).to_series().to_list()
        )
        np.save(path, embed_texts(texts, EmbedConfig()))
    else:
        np.save(path, load_file(arguments.vectors)["embeddings"].astype(np.float32))
    return path


def run_one(name: str, seed: int, vectors: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns a contestant's figures for one seed, or its ``status`` where there are none."""
    result = vectors.parent / "result.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "sid_contestants.py"), name, str(vectors), str(result), "--seed", str(seed)]
    command += ["--codebook-sizes", *map(str, arguments.codebook_sizes), "--threads", str(arguments.threads)]
    if arguments.held_out:
        command.append("--held-out")
    for option in ("openonerec", "minionerec"):
        if getattr(arguments, option):
            command += [f"--{option}", str(getattr(arguments, option))]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(arguments.threads))
    process = subprocess.Popen(
        command, env={**os.environ, **threads}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, errors = process.communicate(timeout=arguments.limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"status": f"stopped after {arguments.limit} s"}
    if not result.exists():
        last_line = (errors.strip().splitlines() or ["no message"])[-1]
        return {"status": f"failed with exit {process.returncode}: {last_line[:200]}"}
    return json.loads(result.read_text())


def run_contestant(name: str, vectors: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the medians over the seeds; one seed only where the first took longer than ``--repeat-below``."""
    runs = []
    for seed in range(arguments.seeds):
        started = time.perf_counter()
        runs.append(run_one(name, seed, vectors, arguments))
        print(f"{name}, seed {seed}: {json.dumps(runs[-1])}", file=sys.stderr, flush=True)
        if "status" in runs[-1] or time.perf_counter() - started > arguments.repeat_below:
            break
    figures = [run for run in runs if "status" not in run]
    if not figures:
        return {"name": name, **runs[-1]}
    median: dict[str, Any] = {"name": name, "side": figures[0]["side"], "num_seeds": len(figures)}
    for key, value in figures[0].items():
        if isinstance(value, int | float):
            median[key] = statistics.median(run[key] for run in figures)
        elif isinstance(value, list):
            median[key] = [statistics.median(column) for column in zip(*(run[key] for run in figures), strict=True)]
    median["seconds_range"] = [min(run["seconds"] for run in figures), max(run["seconds"] for run in figures)]
    median["note"] = figures[0]["note"]
    return median


def add_rivals(rows: list[dict[str, Any]]) -> None:
    """Gives every row the fastest of the other side whose error is no larger (within a thousandth).

    Nor may its error on held-out vectors be, where both are known: a codebook entry an item has no error but on them.
    """
    for row in rows:
        if "status" in row:
            continue
        others = [other for other in rows if "status" not in other and other["side"] != row["side"]]
        no_worse = [
            other
            for other in others
            if all(other[key] <= 1.001 * row[key] for key in ("error", "held_out_error") if key in row and key in other)
        ]
        row["rival"] = "none"
        if no_worse:
            rival = min(no_worse, key=lambda other: other["seconds"])
            row["rival_ratio"] = rival["seconds"] / row["seconds"]
            row["rival_cpu_ratio"] = rival["cpu_s"] / row["cpu_s"]
            row["rival"] = f"{rival['name']}: {row['rival_ratio']:.2f}x (CPU {row['rival_cpu_ratio']:.2f}x)"


def cell(row: dict[str, Any], key: str) -> str:
    if key == "after":
        return f"{row['collisions_after']:.2%}, {row['error_after']:.4f}" if "error_after" in row else row["note"]
    value = row.get(key)
    match key:
        case "seconds":
            low, high = row["seconds_range"]
            return f"{value:.2f} ({low:.2f}-{high:.2f})" if row["num_seeds"] > 1 else f"{value:.2f}"
        case "unique_s" | "cpu_s":
            return "" if value is None else f"{value:.2f}"
        case "error" | "held_out_error":
            return "" if value is None else f"{value:.4f}"
        case "collisions":
            return f"{value:.2%}"
        case "perplexity":
            return ", ".join(f"{level:.0f}" for level in value)
        case "peak_mib":
            return f"{value:.0f}"
    return str(value)


def print_table(rows: list[dict[str, Any]]) -> None:
    print("| " + " | ".join(title for title, _ in TABLE) + " |")
    print("|" + "---|" * len(TABLE))
    for row in sorted(rows, key=lambda row: ("status" in row, row.get("error", 0))):
        if "status" in row:
            print(f"| {row['name']} | {row['status']} |" + " |" * (len(TABLE) - 2))
        else:
            print("| " + " | ".join(cell(row, key) for _, key in TABLE) + " |")


def versions() -> str:
    found = [f"Python {platform.python_version()}", f"{os.cpu_count()} cores"]
    for package in ("numpy", "torch", "faiss-cpu", "scikit-learn", "semantic-id", "vector-quantize-pytorch"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--vectors", type=Path, help="safetensors with a tensor named embeddings")
    source.add_argument("--texts", type=Path, help="JSON lines with title and description, encoded by MiniLM")
    source.add_argument("--synthetic", type=int, metavar="N", help="N made-up vectors instead")
    parser.add_argument("--width", type=int, default=384, help="of made-up vectors")
    parser.add_argument("--codebook-sizes", type=int, nargs="+", default=[256, 256, 256])
    parser.add_argument("--only", nargs="+", help="contestants whose name begins so")
    parser.add_argument("--skip", nargs="+", default=[], help="contestants whose name begins so")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeat-below", type=float, default=60, help="seconds a run may take to be repeated")
    parser.add_argument("--held-out", action="store_true", help="also the error on vectors that were not learned from")
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which a run is stopped")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--openonerec", type=Path, help="checkout")
    parser.add_argument("--minionerec", type=Path, help="checkout")
    parser.add_argument("--json", type=Path, help="where to write all figures, after each contestant")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    names = subprocess.run(
        [sys.executable, str(HERE / "sid_contestants.py"), "--list"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    wanted, unwanted = tuple(arguments.only or [""]), tuple(arguments.skip)
    names = [name for name in names if name.startswith(wanted) and not name.startswith(unwanted)]
    with tempfile.TemporaryDirectory() as folder:
        vectors = read_vectors(arguments, Path(folder))
        shape = np.load(vectors, mmap_mode="r").shape
        rows = []
        for name in names:
            rows.append(run_contestant(name, vectors, arguments))
            if arguments.json:
                arguments.json.write_text(json.dumps({"shape": shape, "versions": versions(), "rows": rows}, indent=2))
    add_rivals(rows)
    print(f"{shape[0]} vectors of {shape[1]}, codebooks {arguments.codebook_sizes}, {arguments.threads} threads")
    print(f"{versions()}\n")
    print_table(rows)


if __name__ == "__main__":
    main()
