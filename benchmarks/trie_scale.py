"""The tree of catalogues that grow by tens: what it costs to build, keep and open, and one step of a search down it.

    python benchmarks/trie_scale.py [--items 10000 100000 1000000 10000000] [--codebook-sizes 256 256 256]
        [--peer-up-to 1000000] [--num-beams 50] [--num-requests 64] [--threads 2]

Catalogues are synthetic: unique codes, those of every level skewed, another code the most frequent below each prefix.
A step is everything between the model's logits and the next level's nodes: which children there are, their logits,
the normaliser over them, and the best 50. Beams stand on the ancestors of items drawn at random, so where items crowd.

Beside it stand, up to ``--peer-up-to`` items, a dict from joined prefixes to the codes that may follow, asked row by
row for a mask (how MiniOneRec constrains its beams; its mask spans the whole vocabulary, this one the level's codes),
and a binary search over the sorted codes for the same mask. All sides must name the same legal codes for every beam
before anything is timed. The tree's time is that of its whole step, scores included; theirs is the mask's alone.
Sides take turns; a figure is the fastest of several.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from itemic.core.allocator import tune_allocator
from itemic.decode.candidates import Candidates, Nodes, find_candidates, top_places
from itemic.decode.trie import Trie


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to measure."""

    items: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    """Items of each catalogue."""
    codebook_sizes: tuple[int, ...] = (256, 256, 256)
    """Codes of each level."""
    peer_up_to: int = 1_000_000
    """Largest catalogue for which the dict and the binary search are measured."""
    num_beams: int = 50
    """Beams of each request."""
    num_requests: int = 64
    """Requests decoded at once."""
    threads: int = 2
    """Threads of torch."""
    turns: int = 7
    """Times that each step is measured."""
    processor_time: bool = False
    """Whether to count the processor's seconds instead of the clock's: for a machine that others use, on one thread."""


@dataclass(frozen=True)
class Beams:
    """Nodes on which a search stands at one depth, with their codes and logits."""

    nodes: Nodes
    prefix: np.ndarray
    logits: torch.Tensor


CLOCK: list[Callable[[], float]] = []
"""What ``timed`` reads, set by ``main``."""


def main(config: BenchmarkConfig) -> None:
    tune_allocator()
    torch.set_num_threads(config.threads)
    CLOCK.append(time.process_time if config.processor_time else time.perf_counter)
    sizes = "x".join(map(str, config.codebook_sizes))
    print(
        f"Codebooks {sizes}, {config.num_requests} requests x {config.num_beams} beams, {config.threads} threads, ",
        end="",
    )
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}\n")
    rows = [measure(config, num_items) for num_items in config.items]
    for title in rows[0]:
        print(f"{title}\n\n{rows[0][title][0]}")
        print("\n".join(row[title][1] for row in rows if row[title][1]), end="\n\n")


def measure(config: BenchmarkConfig, num_items: int) -> dict[str, tuple[str, str]]:
    """Returns for each table its head and the rows of one catalogue."""
    codes = make_codes(num_items, config.codebook_sizes)
    trie, build_s = timed(lambda: Trie.from_codes(codes, config.codebook_sizes))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trie.safetensors"
        _, save_s = timed(lambda: trie.save(path))
        mapped, load_s = timed(lambda: Trie.load(path))
        assert torch.equal(mapped.item_of_slot, trie.item_of_slot)
        file_bytes = path.stat().st_size
    tree = "/".join(str(trie.num_nodes(depth)) for depth in range(1, trie.num_levels + 1))
    storage = (
        f"| {num_items:,} | {tree} | {build_s:.2f} | {trie.num_bytes / num_items:.2f} | {file_bytes / 2**20:.1f} | "
        f"{save_s:.2f} | {1e3 * load_s:.1f} |"
    )
    steps, peers = [], []
    dictionary = sorted_codes = None
    if num_items <= config.peer_up_to:
        (dictionary, dict_bytes), dict_s = timed(lambda: prefix_dict(codes))
        sorted_codes = codes[np.lexsort(codes.T[::-1])]
    for depth in range(trie.num_levels):
        beams = stand(trie, depth, config, codes)
        candidates = step(trie, depth, beams)
        width = candidates.node.shape[2]
        mean = float(trie.num_children(depth, beams.nodes.node).float().mean())
        parts = step_parts(trie, depth, beams, candidates, config)
        steps.append(
            f"| {num_items:,} | {depth + 1} | {mean:.1f} | {width} | " + " | ".join(f"{ms:.2f}" for ms in parts) + " |"
        )
        if dictionary is not None:
            ms = peer_times(trie, depth, beams, candidates, dictionary, sorted_codes, config)
            ratios = f"{ms[1] / ms[0]:.0f}x | {ms[2]:.1f} | {ms[2] / ms[0]:.0f}x |"
            peers.append(f"| {num_items:,} | {depth + 1} | {ms[0]:.2f} | {ms[1]:.1f} | {ratios}")
    tables = {
        "Build, memory and file": (
            "| items | nodes | build s | bytes/item | file MiB | save s | load ms |\n" + rule(7),
            storage,
        ),
        "One step, ms": (
            "| items | level | children a node | columns | children, logits | normalise | both | top-k |\n" + rule(8),
            "\n".join(steps),
        ),
        "Legal codes of every beam, ms": (
            "| items | level | tree | dict of prefixes | ratio | binary search | ratio |\n" + rule(7),
            "\n".join(peers),
        ),
    }
    if dictionary is not None:
        ratios = f"{dict_s / build_s:.0f}x | {dict_bytes / num_items:.0f} | {dict_bytes / trie.num_bytes:.0f}x |"
        text = f"| {num_items:,} | {dict_s:.2f} | {ratios}"
    tables["The dict of prefixes"] = (
        "| items | build s | ratio to the tree | bytes/item | ratio |\n" + rule(5),
        text if dictionary is not None else "",
    )
    return tables


def make_codes(num_items: int, sizes: tuple[int, ...], skew: float = 2.0) -> np.ndarray:
    """Returns unique codes: code c of a level is drawn as size * u^skew, moved by a hash of the prefix."""
    rng = np.random.default_rng(0)
    keys = np.empty(0, dtype=np.int64)
    tries = 0
    while len(keys) < num_items:
        u = rng.random((int(1.2 * (num_items - len(keys))) + 1000, len(sizes)))
        key = np.zeros(len(u), dtype=np.int64)
        for level, size in enumerate(sizes):
            moved = ((key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)).astype(np.int64)
            # What is crowded fills up; after some tries the rest is spread evenly.
            key = key * size + ((size * u[:, level] ** (skew if tries < 6 else 1)).astype(np.int64) + moved) % size
        keys, tries = np.unique(np.concatenate([keys, key])), tries + 1
    keys = rng.permutation(keys)[:num_items]
    radix = np.cumprod([1, *sizes[:0:-1]])[::-1]
    return np.stack([keys // each % size for each, size in zip(radix, sizes, strict=True)], axis=1)


def stand(trie: Trie, depth: int, config: BenchmarkConfig, codes: np.ndarray) -> Beams:
    """Returns beams on the ancestors of items drawn at random, one beam at the root."""
    rng = np.random.default_rng(1)
    B, W = config.num_requests, config.num_beams if depth else 1
    slot = rng.integers(0, trie.num_items, (B, W))
    node = torch.searchsorted(trie.slot_start[depth], torch.from_numpy(slot.astype(np.int32)), right=True) - 1
    nodes = Nodes(node, torch.randn(B, W), node, node)
    prefix = codes[trie.item_of_slot.numpy()[slot]][..., :depth]
    return Beams(nodes, prefix, torch.randn(B, W, trie.codebook_sizes[depth]))


def step(trie: Trie, depth: int, beams: Beams, normalizer: torch.Tensor | None = None) -> Candidates:
    return find_candidates(trie, depth, beams.nodes, beams.logits, normalizer)


def step_parts(trie: Trie, depth: int, beams: Beams, candidates: Candidates, config: BenchmarkConfig) -> list[float]:
    """Returns ms of children and logits, of the normaliser (the difference to a step without), of both, of top-k."""
    given = torch.zeros_like(beams.nodes.logprob)
    score = candidates.logprob.flatten(1)
    bare, whole, top = take_turns(
        [
            lambda: step(trie, depth, beams, given),
            lambda: step(trie, depth, beams),
            lambda: top_places(score, config.num_beams),
        ],
        config.turns,
    )
    return [bare, whole - bare, whole, top]


def peer_times(
    trie: Trie,
    depth: int,
    beams: Beams,
    candidates: Candidates,
    dictionary: dict[str, list[int]],
    sorted_codes: np.ndarray,
    config: BenchmarkConfig,
) -> list[float]:
    """Returns ms of the tree, the dict and the binary search for the legal codes, which must be the same."""
    size = trie.codebook_sizes[depth]
    expected = dict_mask(dictionary, beams.prefix, size)
    assert torch.equal(tree_mask(trie, depth, candidates, size), expected), "the tree and the dict differ"
    assert torch.equal(search_mask(sorted_codes, beams.prefix, size), expected), "tree and binary search differ"
    return take_turns(
        [
            lambda: step(trie, depth, beams),
            lambda: dict_mask(dictionary, beams.prefix, size),
            lambda: search_mask(sorted_codes, beams.prefix, size),
        ],
        min(3, config.turns),
    )


def tree_mask(trie: Trie, depth: int, candidates: Candidates, size: int) -> torch.Tensor:
    """Returns which codes may follow each beam, from a step's columns: more than the search itself needs."""
    B, W, _ = candidates.node.shape
    is_child = candidates.logprob > -torch.inf
    code = torch.where(is_child, trie.codes[depth][candidates.node].long(), size)
    return torch.zeros(B, W, size + 1, dtype=torch.bool).scatter_(-1, code, True)[..., :size].contiguous()


def prefix_dict(codes: np.ndarray) -> tuple[dict[str, list[int]], int]:
    """Returns the codes after each prefix under the prefix's joined codes, and the bytes that it all takes."""
    after: dict[str, list[int]] = {}
    seen: dict[str, set[int]] = {}
    for row in codes.tolist():
        for depth, code in enumerate(row):
            key = "-".join(map(str, row[:depth]))
            seen.setdefault(key, set()).add(code)
    for key, each in seen.items():
        after[key] = sorted(each)
    integers = 28 * sum(map(len, after.values())) if max(map(max, after.values())) > 256 else 0
    num_bytes = sys.getsizeof(after) + sum(sys.getsizeof(key) + sys.getsizeof(each) for key, each in after.items())
    return after, num_bytes + integers


def dict_mask(after: dict[str, list[int]], prefix: np.ndarray, size: int) -> torch.Tensor:
    """Returns which codes may follow each beam, one beam at a time, as the reference does."""
    mask = torch.zeros(*prefix.shape[:2], size, dtype=torch.bool)
    for b, row in enumerate(prefix.tolist()):
        for w, beam in enumerate(row):
            mask[b, w, after["-".join(map(str, beam))]] = True
    return mask


def search_mask(sorted_codes: np.ndarray, prefix: np.ndarray, size: int) -> torch.Tensor:
    """Returns which codes may follow each beam, by asking for every code whether the sorted codes hold it."""
    depth = prefix.shape[-1]
    first, last = np.zeros(prefix.shape[:2], dtype=np.int64), np.full(prefix.shape[:2], len(sorted_codes))
    for level in range(depth):
        first, last = narrow(sorted_codes[:, level], first, last, prefix[..., level])
    every = np.arange(size)
    low, high = narrow(sorted_codes[:, depth], first[..., None], last[..., None], every)
    return torch.from_numpy(high > low)


def narrow(column: np.ndarray, first: np.ndarray, last: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part of each range of a column, sorted within it, that holds a code; all ranges at once."""
    return bound(column, first, last, code), bound(column, first, last, code + 1)


def bound(column: np.ndarray, first: np.ndarray, last: np.ndarray, code: np.ndarray) -> np.ndarray:
    low, high = (np.broadcast_to(each, np.broadcast_shapes(first.shape, code.shape)).copy() for each in (first, last))
    for _ in range(int((last - first).max()).bit_length()):
        middle = (low + high) >> 1
        goes_up = (low < high) & (column[np.minimum(middle, len(column) - 1)] < code)
        low, high = np.where(goes_up, middle + 1, low), np.where(goes_up, high, middle)
    return low


def timed(work: Callable[[], object]) -> tuple[object, float]:
    started = CLOCK[-1]()
    outcome = work()
    return outcome, CLOCK[-1]() - started


def take_turns(sides: list[Callable[[], object]], turns: int) -> list[float]:
    """Returns each side's fastest ms; the sides take turns."""
    seconds = [[timed(side)[1] for side in sides] for _ in range(turns + 1)][1:]
    return [1e3 * min(side) for side in zip(*seconds, strict=True)]


def rule(num_columns: int) -> str:
    return "|" + "---|" * num_columns


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
