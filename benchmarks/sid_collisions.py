"""What each collision strategy takes and costs, on a run's vectors and on catalogues made to be hard; prints Markdown.

    python benchmarks/sid_collisions.py --vectors RUN/embeddings.safetensors
    python benchmarks/sid_collisions.py --synthetic 100000 --full-size 46 --strategies unique

Vectors of a run are coded by RQ-KMeans with default settings. The hard catalogues are coded by RQ-KMeans that learned
from ordinary vectors (clusters): all items identical; half of them on one point but for noise, so under one prefix;
and nearly as many items as SIDs (codebooks of ``--full-size`` codes, all but 1 % of the SIDs wanted).

Seconds are those of the processor, the least of ``--repeat`` runs. The relative error is Σ‖x − x̂‖² over the variance
of the vectors that the quantizer learned from, decoded from the quantizer's own levels. Before a line is printed it is
checked that ``unique`` and ``suffix`` leave no two items on one SID.
"""

import argparse
import dataclasses
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from safetensors.numpy import load_file

from itemic.sid import Quantizer, RQKMeans
from itemic.sid.collisions.settle import CollisionStrategy, SettledCodes, settle_collisions
from itemic.sid.quality import collisions

HEADER = (
    "| catalogue | items | codebooks | strategy | CPU s | collisions before | after | items moved | error before "
    "| after | levels |"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Vectors with the quantizer that codes them."""

    name: str
    x: np.ndarray
    quantizer: Quantizer
    variance: float
    """Mean of ‖x − mean‖² over what the quantizer learned from."""


def learn(name: str, x: np.ndarray, sizes: list[int]) -> Case:
    """Returns a case whose quantizer learned from the very vectors that it codes."""
    quantizer = RQKMeans(sizes).fit(x, np.random.default_rng(0))
    variance = float(np.square(x - x.mean(axis=0)).sum(axis=1).mean())
    return Case(name=name, x=x, quantizer=quantizer, variance=variance)


def ordinary_vectors(num_items: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Returns vectors around a tenth as many centres."""
    centres = rng.standard_normal((max(1, num_items // 10), width), dtype=np.float32)
    noise = rng.standard_normal((num_items, width), dtype=np.float32)
    return centres[rng.integers(len(centres), size=num_items)] + np.float32(0.3) * noise


def make_cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yields the catalogues that were asked for."""
    sizes = arguments.codebook_sizes
    if arguments.vectors:
        yield learn("given vectors", load_file(arguments.vectors)["embeddings"], sizes)
    if arguments.synthetic:
        rng = np.random.default_rng(0)
        x = ordinary_vectors(arguments.synthetic, arguments.width, rng)
        ordinary = learn("ordinary", x, sizes)
        yield ordinary
        yield dataclasses.replace(ordinary, name="all identical", x=np.repeat(x[:1], len(x), axis=0))
        half = x.copy()
        half[::2] = x[0] + np.float32(1e-3) * rng.standard_normal((len(half[::2]), x.shape[1]), dtype=np.float32)
        yield dataclasses.replace(ordinary, name="half on one point", x=half)
        full = [arguments.full_size] * len(sizes)
        many = ordinary_vectors(int(0.99 * arguments.full_size ** len(sizes)), arguments.width, rng)
        yield learn("99 % of all SIDs", many, full)


def relative_error(case: Case, codes: np.ndarray) -> float:
    """Returns the error of the quantizer's own levels."""
    decoded = case.quantizer.decode(codes[:, : len(case.quantizer.codebook_sizes)])
    return float(np.square(case.x - decoded).sum(axis=1).mean()) / case.variance


def measure(case: Case, codes: np.ndarray, strategy: CollisionStrategy, repeat: int) -> tuple[SettledCodes, float]:
    """Returns what the strategy makes of the codes, and its seconds."""
    taken = []
    for _ in range(repeat):
        started = time.process_time()
        settled = settle_collisions(codes, case.quantizer.codebook_sizes, strategy, case.x, case.quantizer)
        taken.append(time.process_time() - started)
    if strategy in ("unique", "suffix"):
        assert collisions(settled.codes)["rate"] == 0
    return settled, min(taken)


def row(case: Case, codes: np.ndarray, strategy: CollisionStrategy, repeat: int) -> str:
    """Returns a line of the table."""
    settled, seconds = measure(case, codes, strategy, repeat)
    num_levels = codes.shape[1]
    moved = float((settled.codes[:, :num_levels] != codes).any(axis=1).mean())
    cells = [
        case.name,
        f"{len(codes):,}",
        " x ".join(map(str, case.quantizer.codebook_sizes)),
        f"`{strategy}`",
        f"{seconds:.3f}" if seconds < 1 else f"{seconds:.1f}",
        f"{collisions(codes)['rate']:.1%}",
        f"{collisions(settled.codes)['rate']:.1%}",
        f"{moved:.1%}",
        f"{relative_error(case, codes):.3f}",
        f"{relative_error(case, settled.codes):.3f}",
        " x ".join(map(str, settled.codebook_sizes)),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, help="embeddings.safetensors of a run")
    parser.add_argument("--synthetic", type=int, default=0, metavar="N", help="hard catalogues of N items as well")
    parser.add_argument("--width", type=int, default=64, help="of made-up vectors")
    parser.add_argument("--codebook-sizes", type=int, nargs="+", default=[256, 256, 256])
    parser.add_argument("--full-size", type=int, default=16, help="codes a level where nearly all SIDs are wanted")
    parser.add_argument("--catalogues", nargs="+", help="only those whose name begins so")
    parser.add_argument("--strategies", nargs="+", choices=get_args(CollisionStrategy))
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    if not arguments.vectors and not arguments.synthetic:
        parser.error("name --vectors, --synthetic or both")
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {threads} threads\n\n{HEADER}")
    print("|" + "---|" * (HEADER.count("|") - 1))
    wanted = tuple(arguments.catalogues or [""])
    for case in make_cases(arguments):
        if not case.name.startswith(wanted):
            continue
        codes = case.quantizer.encode(case.x)
        for strategy in arguments.strategies or get_args(CollisionStrategy):
            print(row(case, codes, strategy, arguments.repeat), flush=True)


if __name__ == "__main__":
    main()
