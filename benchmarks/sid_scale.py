"""Fits, encodes and resolves catalogues that grow by tens; prints seconds (wall and processor) and peak memory.

    python benchmarks/sid_scale.py [--rows 10000 100000 1000000 10000000] [--resolve-up-to 1000000]
        [--codebook-sizes 256 256 256] [--kind rqkmeans] [--folder DIR]

Vectors are synthetic (clusters of clusters), 384 wide, float16, in one file that is mapped into memory: 7.7 GB for ten
million. Each number of rows is measured in a process of its own on the first rows of the file. Peak memory is the
anonymous memory (RssAnon of /proc/self/status, 50 times a second) above that after the imports, so without the pages of
the mapped file, which the system takes back when it needs them. Before anything is printed, a thousand rows are coded
level by level through ``distances`` and compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from itemic.sid import QuantizerConfig, make_quantizer, resolve_unique
from itemic.sid.quantizers.protocol import complete_codes, pieces

WIDTH = 384


def write_vectors(path: Path, num_rows: int, seed: int = 0) -> None:
    """Writes vectors around 20,000 centres, themselves around 200, in pieces."""
    rng = np.random.default_rng(seed)
    scale = (np.arange(1, WIDTH + 1) ** -0.4).astype(np.float32)
    coarse = rng.standard_normal((200, WIDTH), dtype=np.float32) * scale
    fine = coarse[rng.integers(200, size=20_000)] + 0.7 * scale * rng.standard_normal((20_000, WIDTH), dtype=np.float32)
    x = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(num_rows, WIDTH))
    for rows in pieces(num_rows, 1 << 16):
        noise = rng.standard_normal((rows.stop - rows.start, WIDTH), dtype=np.float32)
        x[rows] = fine[rng.integers(len(fine), size=len(noise))] + 0.5 * scale * noise
    x.flush()


def anonymous_mib() -> float:
    """Returns the memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measure(name: str, work: Callable[[], Any], results: dict[str, float]) -> Any:
    """Returns what ``work`` returns; adds its seconds and its peak memory above that at the start of the process."""
    peak, done = anonymous_mib(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, anonymous_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, cpu_started = time.perf_counter(), time.process_time()
    outcome = work()
    results[f"{name}_s"] = round(time.perf_counter() - started, 2)
    results[f"{name}_cpu_s"] = round(time.process_time() - cpu_started, 2)
    done.set()
    watcher.join()
    results[f"{name}_peak_mib"] = round(max(peak, anonymous_mib()) - results["imports_mib"])
    return outcome


def measure_all(path: Path, num_rows: int, arguments: argparse.Namespace) -> None:
    """Prints one line of JSON for the first ``num_rows`` vectors."""
    results: dict[str, float] = {"rows": num_rows, "imports_mib": round(anonymous_mib())}
    x = np.load(path, mmap_mode="r")[:num_rows]
    config = pydantic.TypeAdapter(QuantizerConfig).validate_python({"kind": arguments.kind})
    quantizer = make_quantizer(config, arguments.codebook_sizes)
    measure("fit", lambda: quantizer.fit(x, np.random.default_rng(0)), results)
    codes = measure("encode", lambda: quantizer.encode(x), results)
    some = np.sort(np.random.default_rng(1).choice(num_rows, 1000, replace=False))
    slow = complete_codes(quantizer, x[some], np.empty((1000, 0), dtype=np.int64))
    # Two codes may be equally near but for rounding.
    assert (codes[some] == slow).all(axis=1).mean() > 0.99
    error = np.square(x[some].astype(np.float32) - quantizer.decode(codes[some])).sum()
    results["relative_error"] = round(float(error / np.square(x[some] - x[some].mean(axis=0)).sum()), 3)
    results["collision_rate"] = round(1 - len(np.unique(codes, axis=0)) / num_rows, 4)
    results["codes_mib"] = round(codes.nbytes / 2**20)
    if num_rows <= arguments.resolve_up_to:
        unique = measure("resolve", lambda: resolve_unique(codes, x, quantizer), results)
        assert len(np.unique(unique, axis=0)) == num_rows
    print(json.dumps(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--resolve-up-to", type=int, default=1_000_000)
    parser.add_argument("--codebook-sizes", type=int, nargs="+", default=[256, 256, 256])
    parser.add_argument("--kind", default="rqkmeans")
    parser.add_argument("--folder", type=Path, help="where the vectors are written; by default a temporary folder")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure_all(arguments.measure, arguments.rows[0], arguments)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "x.npy"
        write_vectors(path, max(arguments.rows))
        options = ["--kind", arguments.kind, "--resolve-up-to", str(arguments.resolve_up_to)]
        options += ["--codebook-sizes", *map(str, arguments.codebook_sizes)]
        for num_rows in arguments.rows:
            command = [sys.executable, __file__, "--measure", str(path), "--rows", str(num_rows), *options]
            print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
