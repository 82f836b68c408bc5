"""What per-request filters cost: the same search without a filter and with more and more of them.

Seen items, a deny list of a thousand, a predicate over catalogue columns, another predicate for every request. The
lists are checked first: never an item that is not allowed, and no other score than without a filter. All sides take
turns on the same batches in one process; the time of a side has the making of its filter in it, that of a predicate's
first use is shown apart.

    python benchmarks/decode_filters.py                      # a catalogue of 3,686 items
    python benchmarks/decode_filters.py --num-items 1000000  # a random tree
    python benchmarks/decode_filters.py --num-items 10000000 --num-rounds 1
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import decode_vs_hf
import numpy as np
import polars as pl
import torch
import tyro

from itemic.core.allocator import tune_allocator
from itemic.decode import ItemFilter, Trie, constrained_beam_search
from itemic.decode.beam import BeamResult
from itemic.decode.conditions import ItemSelector
from itemic.decode.item_sets import ItemSet

CONDITION = "stock > 0 and price <= 50 and released >= 2020-01-01 and category in (Books, Toys, Games, Music)"


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is compared."""

    num_items: int = 3686
    """Items; 3,686 have a tree like MiniOneRec's Industrial one, any other number has random codes."""
    num_prompts: int = 16
    """Number of prompts, of 60 to 140 tokens."""
    num_beams: int = 50
    """Beams."""
    batch_size: int = 8
    """Prompts a call."""
    num_seen: int = 50
    """Items that a request has seen."""
    num_denied: int = 1000
    """Items that a request denies beyond those."""
    num_step_requests: int = 64
    """Requests at once where one step is measured alone."""
    num_rounds: int = 5
    """How often every side goes over the prompts."""
    device: str = "cpu"
    """Where to compute."""
    tuned_allocator: bool = True
    """Whether freed memory is kept, as itemic's commands do."""
    seed: int = 0
    """Of weights, catalogue and prompts."""


@dataclass(frozen=True, eq=False)
class Shop:
    """A catalogue, its tree and the requests' lists."""

    config: BenchmarkConfig
    trie: Trie
    items: pl.DataFrame
    selector: ItemSelector
    seen: list[np.ndarray]
    denied: list[np.ndarray]

    def filters(self) -> dict[str, Callable[[slice], ItemFilter | None]]:
        """Returns for each side what makes the filter of some requests."""

        def make(
            exclude: list[np.ndarray] | None, within: Callable[[int], ItemSet | None] | None
        ) -> Callable[[slice], ItemFilter]:
            def filter_of(rows: slice) -> ItemFilter:
                places = range(*rows.indices(self.config.num_prompts))
                sets = None if within is None else [within(place) for place in places]
                lists = None if exclude is None else exclude[rows]
                return ItemFilter.from_lists(self.trie, len(places), lists, within=sets)

            return filter_of

        both = [np.concatenate(pair) for pair in zip(self.seen, self.denied, strict=True)]
        seen, denied = f"{self.config.num_seen} seen", f"{self.config.num_denied} denied"
        return {
            "no filter": lambda rows: None,
            seen: make(self.seen, None),
            f"+ {denied}": make(both, None),
            "+ one predicate": make(both, lambda place: self.selector.select(CONDITION)),
            "+ a predicate a request": make(both, lambda place: self.selector.select(f"stock > {place % 16}")),
            "one predicate alone": make(None, lambda place: self.selector.select(CONDITION)),
        }


def main(config: BenchmarkConfig) -> None:
    """Checks the lists, measures and prints Markdown."""
    if config.tuned_allocator:
        tune_allocator()
    rng = np.random.default_rng(config.seed)
    model = decode_vs_hf.make_small(rng)
    model.network.to(config.device)
    shop = make_shop(config, rng)
    prompts = decode_vs_hf.make_prompts(model, config.num_prompts, rng)
    filters = shop.filters()
    batches = [slice(start, start + config.batch_size) for start in range(0, config.num_prompts, config.batch_size)]

    def search(name: str, rows: slice) -> BeamResult:
        allowed = filters[name](rows)
        batch = prompts[rows]
        return constrained_beam_search(
            model, batch, shop.trie, config.num_beams, allowed=allowed, batch_size=len(batch)
        )

    first_use = measure_first_use(shop)
    for rows in batches:
        check_lists(shop, rows, {name: (search(name, rows), filters[name](rows)) for name in filters})
    seconds = take_turns(filters, batches, search, config)
    making = {name: processor_seconds(lambda name=name: [filters[name](rows) for rows in batches]) for name in filters}
    print_result(shop, first_use, seconds, making)
    print_steps(shop, rng)


def make_shop(config: BenchmarkConfig, rng: np.random.Generator) -> Shop:
    """Returns a catalogue with a category, a price, a stock and a day for each item."""
    num_items = config.num_items
    if num_items == 3686:
        codes = decode_vs_hf.make_codes(num_items, rng)
    else:
        flat = np.sort(rng.choice(256**3, num_items, replace=False))
        codes = rng.permutation(np.stack(np.unravel_index(flat, decode_vs_hf.SIZES), axis=1))
    trie = Trie.from_codes(codes, decode_vs_hf.SIZES).to(torch.device(config.device))
    categories = ["Books", "Toys", "Games", "Music", "Garden", "Tools"]
    items = pl.DataFrame(
        {
            "item_id": pl.int_range(num_items, eager=True).cast(pl.String),
            "category": pl.Series(categories).gather(rng.integers(0, len(categories), num_items)),
            "price": rng.gamma(2, 20, num_items),
            "stock": rng.poisson(3, num_items),
            "released": np.datetime64("2015-01-01") + rng.integers(0, 4000, num_items).astype("timedelta64[D]"),
        }
    )
    lists = [
        [rng.integers(0, num_items, size) for _ in range(config.num_prompts)]
        for size in (config.num_seen, config.num_denied)
    ]
    return Shop(config, trie, items, ItemSelector(items, trie), *lists)


def processor_seconds(action: Callable[[], object]) -> float:
    """Returns the processor time of an action."""
    start = time.process_time()
    action()
    return time.process_time() - start


def measure_first_use(shop: Shop) -> tuple[float, ItemSet]:
    """Returns the processor time of a predicate's first use, and its set."""
    selector = ItemSelector(shop.items, shop.trie, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    start = time.process_time()
    item_set = selector.select(CONDITION)
    assert item_set is not None
    return time.process_time() - start, item_set


def check_lists(shop: Shop, rows: slice, found: dict[str, tuple[BeamResult, ItemFilter | None]]) -> None:
    """Stops where a list holds an item that is not allowed, or with another score than without a filter."""
    whole = found["no filter"][0]
    for name, (result, allowed) in found.items():
        assert allowed is None or bool((result.leaf >= 0).any()), f"{name}: nothing was listed"
        for place, row in enumerate(range(*rows.indices(shop.config.num_prompts))):
            leaves = [leaf for leaf in result.leaf[place].tolist() if leaf >= 0]
            items = shop.trie.item_of_slot[leaves].cpu().numpy()
            assert not (name != "no filter" and np.isin(items, shop.seen[row]).any() and "alone" not in name), name
            assert not ("denied" in name and np.isin(items, shop.denied[row]).any()), name
            if "one predicate" in name:
                assert np.isin(items, np.flatnonzero(allowed_by_hand(shop.items))).all(), name
            if "a request" in name:
                assert (shop.items["stock"].to_numpy()[items] > row % 16).all(), name
            scores = dict(zip(whole.leaf[place].tolist(), whole.logprob[place].tolist(), strict=True))
            for leaf, score in zip(leaves, result.logprob[place].tolist(), strict=False):
                assert abs(scores.get(leaf, score) - score) < 1e-4, f"{name}: another score"


def allowed_by_hand(items: pl.DataFrame) -> np.ndarray:
    """Returns what ``CONDITION`` says, by numpy."""
    in_category = np.isin(items["category"].to_numpy(), ["Books", "Toys", "Games", "Music"])
    is_new = items["released"].to_numpy() >= np.datetime64("2020-01-01")
    return (items["stock"].to_numpy() > 0) & (items["price"].to_numpy() <= 50) & is_new & in_category


def take_turns(
    filters: dict[str, Callable[[slice], ItemFilter | None]],
    batches: list[slice],
    search: Callable[[str, slice], BeamResult],
    config: BenchmarkConfig,
) -> dict[str, list[float]]:
    """Returns for each side the seconds of its rounds: of the processor, or of the clock where a device computes."""
    seconds: dict[str, list[float]] = {name: [] for name in filters}
    clock = time.process_time if config.device == "cpu" else time.perf_counter
    names = list(filters)
    for round_number in range(config.num_rounds):
        spent = dict.fromkeys(names, 0.0)
        for number, rows in enumerate(batches):
            # Each batch begins with another side, so that none always comes after the same one.
            turn = (round_number + number) % len(names)
            for name in [*names[turn:], *names[:turn]]:
                start = clock()
                search(name, rows).logprob.cpu()
                spent[name] += clock() - start
        for name, total in spent.items():
            seconds[name].append(total)
    return seconds


def print_result(
    shop: Shop, first_use: tuple[float, ItemSet], seconds: dict[str, list[float]], making: dict[str, float]
) -> None:
    config, trie = shop.config, shop.trie
    tree = "/".join(str(trie.num_nodes(depth)) for depth in range(1, trie.num_levels + 1))
    share = first_use[1].num_items / trie.num_items
    print(
        f"tree {tree}, {config.num_beams} beams, {config.num_prompts} prompts in batches of {config.batch_size}, ",
        end="",
    )
    print(f"{torch.get_num_threads()} threads, {config.num_rounds} rounds\n")
    print(f"predicate: {CONDITION}; holds for {share:.1%}")
    print(f"first use: {first_use[0] * 1e3:.0f} ms CPU; {first_use[1].num_bytes / trie.num_items:.3f} bytes an item\n")
    unit = "CPU s" if config.device == "cpu" else "s"
    print(f"| filter | {unit} a round | against no filter | of that, making it |\n|---|---|---|---|")
    for name, rounds in seconds.items():
        ratios = np.array(rounds) / np.array(seconds["no filter"])
        share = making[name] / np.median(rounds)
        print(f"| {name} | {np.median(rounds):.3f} | {np.median(ratios):.3f} | {share:.3f} |")


def print_steps(shop: Shop, rng: np.random.Generator) -> None:
    """Prints the median milliseconds of making filters for many requests and of asking them at each depth."""
    num_requests, num_beams, trie = shop.config.num_step_requests, shop.config.num_beams, shop.trie
    size = shop.config.num_seen + shop.config.num_denied
    lists = [rng.integers(0, trie.num_items, size) for _ in range(num_requests)]
    within = [shop.selector.select(CONDITION)] * num_requests
    kinds = {
        "the predicate": {"within": within},
        f"{size} denied": {"exclude": lists},
        f"{size} denied, the predicate": {"exclude": lists, "within": within},
        f"{size} allowed": {"allow": lists},
    }
    candidates = [random_candidates(trie, depth, num_requests, num_beams, rng) for depth in range(trie.num_levels)]
    counts = " | ".join(f"{node.numel():,} candidates" for node in candidates)
    print(f"\n| ms CPU, {num_requests} requests | making | {counts} |\n|---|---|{'---|' * len(candidates)}")
    for name, lists_and_sets in kinds.items():
        allowed = ItemFilter.from_lists(trie, num_requests, **lists_and_sets)
        actions = [lambda given=lists_and_sets: ItemFilter.from_lists(trie, num_requests, **given)]
        for depth, node in enumerate(candidates, start=1):
            actions.append(lambda allowed=allowed, depth=depth, node=node: allowed.num_allowed(depth, node))
        spent = [np.median([processor_seconds(action) for _ in range(7)]) * 1e3 for action in actions]
        print(f"| {name} | {' | '.join(f'{each:.2f}' for each in spent)} |")


def random_candidates(
    trie: Trie, depth: int, num_requests: int, num_beams: int, rng: np.random.Generator
) -> torch.Tensor:
    """Returns the children of random nodes, in as many columns as the widest node has children."""
    nodes = rng.integers(0, trie.num_nodes(depth), (num_requests, num_beams if depth else 1))
    first, _ = trie.child_range(depth, torch.from_numpy(nodes).to(trie.item_of_slot.device))
    width = trie.max_children[depth]
    start = first.clamp(max=trie.num_nodes(depth + 1) - width)
    return start[..., None] + torch.arange(width, device=start.device)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
