"""What number formats cost and gain in decoding: one trained run, its test split, the same examples in every format.

Prints for each format the rate of a turn (formats take turns, chunk by chunk), HR@10 and NDCG@10 with the paired
difference to float32 and its standard error, and how much of float32's lists is found again. The allocator is tuned,
as whenever a trained run is loaded.

    python benchmarks/decode_precision.py --run FOLDER                # a run folder with a trained model
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from itemic.core.seeds import derive_rng
from itemic.inference import load_trained
from itemic.model import Precision

CUT = 10


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is measured."""

    run: Path
    """Folder of a run whose stages up to ``sft`` are done."""
    formats: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
    """Number formats; the lists of the first are what the others' are compared with."""
    split: str = "test"
    """Split of the examples."""
    num_examples: int = 1000
    """Examples, drawn at random."""
    chunk_size: int = 100
    """Examples that a format decodes before it is the next one's turn."""
    num_beams: int = 50
    """Beam width and length of the lists."""
    device: str = "cpu"
    """Where to compute."""
    num_threads: int = 0
    """Threads of torch; 0 leaves its default."""
    seed: int = 0
    """Seed of the examples."""


def main(config: BenchmarkConfig) -> None:
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    runs = {
        name: load_trained(config.run, num_beams=config.num_beams, device=config.device, dtype=name)
        for name in config.formats
    }
    dataset = next(iter(runs.values())).dataset
    examples = dataset.split(config.split)
    chosen = derive_rng(config.seed, "examples").permutation(len(examples))[: config.num_examples]
    histories = [examples["history"][int(row)].to_list() for row in chosen]
    target = examples["target"].to_numpy()[chosen]
    lists: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    cpu = dict.fromkeys(runs, 0.0)
    for trained in runs.values():
        trained.recommend_many(histories[:16], config.num_beams)
    for at in range(0, len(histories), config.chunk_size):
        for name, trained in runs.items():
            begin = time.process_time()
            found = trained.recommend_many(histories[at : at + config.chunk_size], config.num_beams)
            cpu[name] += time.process_time() - begin
            lists[name].append(found.item_index)
    print(f"{config.run.name}: {len(target)} examples of {config.split}, {config.num_beams} beams, ", end="")
    print(f"{torch.get_num_threads()} threads, {config.device}\n")
    print_table({name: np.vstack(rows) for name, rows in lists.items()}, cpu, target, config.num_beams)
    for name, trained in runs.items():
        if trained.precision != name:
            print(f"\n{name} was no faster here, so that it computed in {trained.precision}")


def print_table(lists: dict[str, np.ndarray], cpu: dict[str, float], target: np.ndarray, num_beams: int) -> None:
    base = next(iter(lists))
    print(
        f"| format | CPU ms/user | ratio | HR@{CUT} | difference | NDCG@{CUT} | difference | same first item ", end=""
    )
    print(f"| top {CUT} found again | top {num_beams} found again | lists identical |\n|{'---|' * 11}")
    exact = {metric: metric(lists[base], target) for metric in (hits, gains)}
    for name, found in lists.items():
        columns = [name, f"{cpu[name] / len(target) * 1e3:.1f}", f"{cpu[base] / cpu[name]:.2f}x"]
        for metric, expected in exact.items():
            value = metric(found, target)
            difference = value - expected
            error = difference.std() / len(target) ** 0.5
            columns += [f"{value.mean():.4f}", f"{difference.mean():+.4f} ± {error:.4f}"]
        same = found == lists[base]
        columns.append(f"{same[:, 0].mean():.1%}")
        columns += [f"{overlap(found[:, :cut], lists[base][:, :cut]):.1%}" for cut in (CUT, num_beams)]
        columns.append(f"{same.all(axis=1).mean():.1%}")
        print(f"| {' | '.join(columns)} |")


def hits(lists: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns 1 for each list that has its target among the first ten, else 0."""
    return (lists[:, :CUT] == target[:, None]).any(axis=1).astype(float)


def gains(lists: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns 1 / log2(rank + 1) of each target, 0 beyond the first ten: NDCG with one relevant item."""
    discount = 1 / np.log2(np.arange(2, CUT + 2))
    return ((lists[:, :CUT] == target[:, None]) * discount).sum(axis=1)


def overlap(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the mean share of each expected list's items that the found one has, in any order."""
    is_item = expected >= 0
    is_found = (expected[:, :, None] == found[:, None, :]).any(axis=2) & is_item
    return float((is_found.sum(axis=1) / is_item.sum(axis=1)).mean())


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
