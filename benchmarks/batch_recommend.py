"""Recommendations for a whole table of users, as users, beams and catalogue grow by tens: users a second, peak memory.

Each setting runs in a process of its own through ``recommend_table``: a Parquet file of histories is read, checked and
decoded, and a Parquet file with ten items a user is written. Its lists are checked before its time is printed. The last
process holds the table against the usual way on the same users: Hugging Face ``generate`` with a dict of joined
prefixes, batch by batch, whose lists must be the same to the last item.

    python benchmarks/batch_recommend.py                                # about 10 minutes on two cores
    python benchmarks/batch_recommend.py --items 1000 1000000 10000000  # other settings; an empty list leaves them out
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from decode_vs_hf import SIZES, HuggingFaceSearch, make_small

from itemic.core.allocator import tune_allocator
from itemic.core.dataset import EXAMPLE_SCHEMA, INTERACTION_SCHEMA, Dataset
from itemic.core.ranking import Recommendations
from itemic.decode.recommender import LanguageModelRecommender
from itemic.inference import TrainedRun
from itemic.language.prompts import Renderer
from itemic.model import SidModel
from itemic.sid import Catalog
from itemic.user_table import recommend_table

K = 10
MAX_HISTORY = 50
MEAN_HISTORY = 20
PIECE = 10_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One process."""

    users: int = 300
    """Rows of the table."""
    beams: int = 50
    """Beam width."""
    items: int = 10_000
    """Items of the catalogue."""
    normalize: Literal["legal", "full"] = "legal"
    """What scores are normalised over."""
    batch_size: int = 16
    """Histories decoded at once; 16 is the default of ``itemic recommend``."""
    num_threads: int = 0
    """Threads of torch; 0 leaves its default."""
    decodes: bool = True
    """Whether the model is asked; without it the table alone is measured."""
    peer_users: int = 0
    """Users that Hugging Face decodes too; 0 leaves it out."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is measured; each list is one table, whose other two settings stay at the defaults of ``Setting``."""

    users: tuple[int, ...] = (100, 1_000, 10_000)
    """Users, with 50 beams and 10,000 items."""
    beams: tuple[int, ...] = (5, 50, 500)
    """Beams, with 300 users (100 from 500 beams on) and 10,000 items."""
    items: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """Items, with 300 users and 50 beams."""
    table_users: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Users, with a stand-in for the decoder: what reading, checking and writing alone cost."""
    peer_users: int = 16
    """Users of the comparison; 0 leaves it out."""
    batch_size: int = 16
    """Histories decoded at once, on both sides of the comparison too."""
    num_threads: int = 0
    """Threads of torch; 0 leaves its default."""
    measure: str = ""
    """A setting as JSON: measure it in this process and print the result. The benchmark calls itself so."""


def main(config: BenchmarkConfig) -> None:
    if config.measure:
        print(json.dumps(measure(Setting(**json.loads(config.measure)))))
        return
    shared: dict[str, Any] = {"batch_size": config.batch_size, "num_threads": config.num_threads}
    print_growth("decoded users", [Setting(users=users, **shared) for users in config.users])
    beams = [Setting(beams=beams, users=100 if beams >= 500 else 300, **shared) for beams in config.beams]
    print_growth("by beams", beams)
    print_growth("by items", [Setting(items=items, **shared) for items in config.items])
    print_growth("table alone", [Setting(users=users, decodes=False, **shared) for users in config.table_users])
    if config.peer_users:
        print_peer(Setting(users=config.peer_users, peer_users=config.peer_users, **shared))


def print_growth(name: str, settings: list[Setting]) -> None:
    """Prints a table with a line a setting, each as soon as it is measured."""
    if not settings:
        return
    columns = ["what grows", "users", "beams", "items", "users/s", "CPU ms/user", "ms/user outside the decoder"]
    print("\n| " + " | ".join([*columns, "MiB at start", "MiB at peak"]) + " |")
    print("|---|---|---|---|---|---|---|---|---|")
    for setting in settings:
        found = in_own_process(setting)
        cells = [name, f"{setting.users:,}", str(setting.beams), f"{setting.items:,}"]
        cells += [
            f"{found['users_per_s']:,.1f}",
            f"{1e3 * found['cpu_s_per_user']:.3g}",
            f"{1e3 * found['outside_s'] / setting.users:.3g}",
        ]
        cells += [f"{found['start_mib']:,.0f}", f"{found['peak_mib']:,.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def print_peer(setting: Setting) -> None:
    found = in_own_process(setting)
    print(f"\n{setting.users} users, {setting.beams} beams, {setting.items:,} items, {found['num_threads']} threads")
    print(f"lists of ten identical to Hugging Face's (full): {found['num_same']} of {setting.users}\n")
    print("| way | users/s | ratio | CPU s/user | ratio |\n|---|---|---|---|---|")
    wall_peer, cpu_peer = found["sides"]["Hugging Face generate, dict"]
    for name, (wall, cpu) in found["sides"].items():
        rates = f"{setting.users / wall:.2f} | {wall_peer / wall:.1f}x | {cpu / setting.users:.3f}"
        print(f"| {name} | {rates} | {cpu_peer / cpu:.1f}x |")
    if found["num_same"] < setting.users:
        raise SystemExit("the lists differ")


def in_own_process(setting: Setting) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", json.dumps(asdict(setting))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(setting: Setting) -> dict[str, Any]:
    """Returns a setting's figures, after its lists were checked."""
    tune_allocator()
    if setting.num_threads:
        torch.set_num_threads(setting.num_threads)
    rng = np.random.default_rng(0)
    model = make_small(rng)
    codes = distinct_codes(setting.items, rng)
    trained = make_trained(model, codes, setting)
    with tempfile.TemporaryDirectory() as folder:
        users, target = Path(folder) / "users.parquet", Path(folder) / "recs.parquet"
        write_users(users, setting, rng)
        warm_up(trained)
        if setting.peer_users:
            return against_peer(trained, model, codes, users, target, setting)
        start_mib = resident_mib()
        wall, cpu = timed(lambda: recommend_table(trained, users, target, k=K))
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        outside_s = wall - sum(trained.seconds)
        if setting.decodes:
            check(trained, users, target)
    return {
        "users_per_s": setting.users / wall,
        "cpu_s_per_user": cpu / setting.users,
        "outside_s": outside_s,
        "start_mib": start_mib,
        "peak_mib": peak_mib,
    }


@dataclass(frozen=True, eq=False)
class TimedRun(TrainedRun):
    """Knows how long the decoder was busy; without one it hands out the first ten items at once."""

    decodes: bool = True
    seconds: list[float] = field(default_factory=list)

    def recommend_many(self, histories: Any, k: int, *filters: Any, **options: Any) -> Recommendations:
        """Returns the lists and notes what they took."""
        started = time.perf_counter()
        if self.decodes:
            lists = super().recommend_many(histories, k, *filters, **options)
        else:
            ten = np.tile(np.arange(k), (len(histories), 1))
            none = np.zeros(len(histories), dtype=np.int64)
            lists = Recommendations(item_index=ten, score=-ten.astype(np.float64), num_tied_beyond=none)
        self.seconds.append(time.perf_counter() - started)
        return lists


def make_trained(model: SidModel, codes: np.ndarray, setting: Setting) -> TimedRun:
    """Returns what ``load_trained`` would, for an untrained model and items without a text."""
    item_ids = [f"item-{row}" for row in range(len(codes))]
    catalog = Catalog(codes, item_ids, SIZES)
    model.catalog_version = catalog.version
    index = pl.int_range(len(codes), dtype=pl.Int64, eager=True)
    ids = pl.Series(item_ids)
    items = pl.DataFrame({"item_index": index, "item_id": ids, "title": "Title of " + ids, "description": ""})
    examples = pl.DataFrame(schema=EXAMPLE_SCHEMA)
    dataset = Dataset(
        items=items,
        interactions=pl.DataFrame(schema=INTERACTION_SCHEMA),
        train=examples,
        valid=examples,
        test=examples,
        info={"keeps_repeats": setting.peer_users > 0},
    )
    renderer = Renderer(model.tokenizer, model.spelling, codes, "sid-only")
    recommender = make_recommender(model, catalog, renderer, items, setting, "legal")
    return TimedRun(dataset, catalog, renderer, recommender, decodes=setting.decodes)


def make_recommender(
    model: SidModel, catalog: Catalog, renderer: Renderer, items: pl.DataFrame, setting: Setting, normalize: Any
) -> LanguageModelRecommender:
    return LanguageModelRecommender(
        model,
        catalog,
        renderer.next_item_prompt,
        num_beams=setting.beams,
        normalize=normalize,
        batch_size=setting.batch_size,
        items=items,
    )


def distinct_codes(num_items: int, rng: np.random.Generator) -> np.ndarray:
    """Returns distinct SIDs, drawn evenly: 1,000 items have 250 first codes, a million all 65,536 pairs."""
    numbers = rng.choice(np.prod(SIZES), num_items, replace=False)
    return np.column_stack(np.unravel_index(numbers, SIZES)).astype(np.int64)


def write_users(path: Path, setting: Setting, rng: np.random.Generator) -> None:
    """Writes histories of 1 to 50 items, 20 on average before the cut, in pieces, so that memory stays as it is."""
    schema = pa.schema([("user_id", pa.int64()), ("history", pa.list_(pa.string()))])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, setting.users, PIECE):
            users = np.arange(first, min(first + PIECE, setting.users))
            lengths = np.minimum(rng.geometric(1 / MEAN_HISTORY, len(users)), MAX_HISTORY)
            items = pa.array([f"item-{row}" for row in rng.integers(0, setting.items, lengths.sum())])
            start = pa.array(np.concatenate([[0], lengths.cumsum()]).astype(np.int32))
            writer.write_table(pa.table([users, pa.ListArray.from_arrays(start, items)], schema=schema))


def check(trained: TrainedRun, users: Path, target: Path) -> None:
    """Checks that every user has ten items, none of them seen, and the first users what they get one by one."""
    asked, found = pl.read_parquet(users), pl.read_parquet(target)
    lists = found.group_by("user_id", maintain_order=True).agg("item_id", "probability")
    assert lists["user_id"].equals(asked["user_id"])
    assert (lists["item_id"].list.len() == K).all()
    assert not (lists["item_id"].list.set_intersection(asked["history"]).list.len() > 0).any()
    for row in range(3):
        alone = trained.recommend(asked["history"][row], K)
        assert [item.item_id for item in alone] == lists["item_id"][row].to_list(), f"user {row}"


def against_peer(
    trained: TrainedRun, model: SidModel, codes: np.ndarray, users: Path, target: Path, setting: Setting
) -> dict[str, Any]:
    """Returns the seconds of both ways to ten items for each user, and how many lists are the same."""
    peer = HuggingFaceSearch(model, codes, setting.beams)
    item_of_sid = {tuple(sid): row for row, sid in enumerate(model.sid_tokens.encode(codes).tolist())}
    rows = {item_id: row for row, item_id in enumerate(trained.catalog.item_ids)}
    histories = [[rows[item] for item in history] for history in pl.read_parquet(users)["history"]]
    peer_lists: list[list[str]] = []

    def ask_peer() -> None:
        for first in range(0, len(histories), setting.batch_size):
            prompts = [
                trained.renderer.next_item_prompt(each) for each in histories[first : first + setting.batch_size]
            ]
            for beams in peer(prompts):
                peer_lists.append([trained.catalog.item_ids[item_of_sid[beam]] for beam in beams[:K]])

    parts = (model, trained.catalog, trained.renderer, trained.dataset.items, setting)
    full = replace(trained, recommender=make_recommender(*parts, "full"))
    sides = {"Hugging Face generate, dict": timed(ask_peer)}
    sides["itemic table, full"] = timed(lambda: recommend_table(full, users, target, k=K))
    ours = pl.read_parquet(target).group_by("user_id", maintain_order=True).agg("item_id")["item_id"].to_list()
    sides["itemic table, legal"] = timed(lambda: recommend_table(trained, users, target, k=K))
    num_same = sum(a == b for a, b in zip(ours, peer_lists, strict=True))
    return {"sides": sides, "num_same": num_same, "num_threads": torch.get_num_threads()}


def warm_up(trained: TimedRun) -> None:
    trained.recommend_many([[0, 1, 2]] * 2, K)
    trained.seconds.clear()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Returns the wall and processor seconds of some work."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
