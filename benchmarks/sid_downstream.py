"""Which quality figure of semantic IDs predicts HR@10? Many catalogs, one small decoder, two data sets.

    python benchmarks/sid_downstream.py --data FOLDER --out FOLDER             # train what is missing, then the tables
    python benchmarks/sid_downstream.py --data FOLDER --out FOLDER --tables    # the tables of what is there
    python benchmarks/sid_downstream.py --data FOLDER --out FOLDER --test NAME NAME    # two of them, once, on test

FOLDER (data) holds MiniOneRec's Industrial split as recipes/industrial.yaml wants it; MovieLens-100k comes from its
wheel. Every catalog of a data set is a run folder of the same recipe but for its semantic IDs: same data, same decoder,
same number of steps, judged on the valid split (never on test). A run that is there is skipped, so that more catalogs
or seeds can be added later. Figures that need vectors are taken three times: against the vectors that the catalog was
made of, against the text embeddings, and against vectors of the training log (PPMI factors), the same for all catalogs.
"""

import argparse
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy.stats import rankdata

from itemic.core.dataset import Dataset
from itemic.core.errors import ItemicError
from itemic.core.files import read_json, write_json, write_parquet
from itemic.core.progress import setup_logging
from itemic.core.seeds import derive_rng
from itemic.evaluate.evaluate import evaluate_all
from itemic.evaluate.significance import compare_runs
from itemic.inference import load_trained
from itemic.language.spelling import Spelling
from itemic.pipeline import run_recipe
from itemic.recipe import Recipe, load_recipe
from itemic.sid.catalog import Catalog
from itemic.sid.quality import measure_quality
from itemic.sid.vectors import read_collaborative, read_embeddings

log = logging.getLogger("itemic")

ROOT = Path(__file__).parents[1]
SETS = {"industrial": "industrial.yaml", "movielens": "quickstart.yaml"}
SMALL = (
    "sft.decoder={hidden_size: 64, num_layers: 2, num_heads: 2, intermediate_size: 256, dropout: 0.05}",
    "sft.select_by=loss",
    "sft.training.learning_rate=5.0e-3",
    "collaborative={kind: svd}",
    "evaluate.split=valid",
    "evaluate.baselines=[]",
    "evaluate.num_beams=20",
    "evaluate.cutoffs=[5, 10]",
)
EPOCHS = {"industrial": "sft.training.epochs=6", "movielens": "sft.training.epochs=3"}
TARGETS = ("HR@10", "NDCG@10")
COMPACT = "tokenize.quantizer.hidden_sizes=[768, 256]"


def quantizer(kind: str, sizes: str = "[256, 256, 256]", *more: str) -> tuple[str, ...]:
    return (f"tokenize.quantizer.kind={kind}", f"tokenize.codebook_sizes={sizes}", *more)


def joint(weight: float, kind: str = "svd") -> tuple[str, ...]:
    vectors = f"tokenize.vectors={{kind: joint, collaborative_weight: {weight}}}"
    return quantizer("rqkmeans", "[256, 256, 256]", vectors, f"collaborative={{kind: {kind}}}")


LONGER_ROWS = "sft.row_tokens=256"
"""For SIDs of four codes: 50 of them do not fit into the quickstart's rows."""

CATALOGS: dict[str, tuple[str, ...]] = {
    "text rqkmeans 3x256": quantizer("rqkmeans"),
    "joint svd .5": joint(0.5),
    "random": ("tokenize.source=given",),
    "collaborative svd": joint(1.0),
    "text rqkmeans 3x64": quantizer("rqkmeans", "[64, 64, 64]"),
    "official RQ-VAE": ("tokenize.source=given",),
    "text rqvae 3x256": quantizer("rqvae", "[256, 256, 256]", COMPACT),
    "text hierarchical 3x16": quantizer("hierarchical-kmeans", "[16, 16, 16]"),
    "text balanced 3x256": quantizer("balanced-rqkmeans"),
    "joint svd .25": joint(0.25),
    "joint svd .75": joint(0.75),
    "text rqopq 3x256": quantizer("rqopq"),
    "text rqkmeans-fsq 3x256": quantizer("rqkmeans-fsq"),
    "collaborative ease": joint(1.0, "ease"),
    "text rqkmeans-plus 3x256": quantizer("rqkmeans-plus"),
    "text rqvae LETTER 3x256": quantizer(
        "rqvae", "[256, 256, 256]", COMPACT, "tokenize.quantizer.collaborative_weight=0.02"
    ),
    "text suffix 3x256": quantizer("rqkmeans", "[256, 256, 256]", "tokenize.collisions=suffix", LONGER_ROWS),
    "text share 3x256": quantizer("rqkmeans", "[256, 256, 256]", "tokenize.collisions=share"),
    "text rqkmeans 2x256": quantizer("rqkmeans", "[256, 256]"),
}
"""Name to changes of the recipe, the most telling ones first; a kind that this itemic lacks is left out."""


def random_codes(dataset: Dataset, rng: np.random.Generator) -> np.ndarray:
    """Different SIDs of 3 x 256 codes for all items, that mean nothing: the floor."""
    chosen = rng.choice(256**3, size=dataset.num_items, replace=False)
    return np.stack(np.unravel_index(chosen, (256, 256, 256)), axis=1)


def official_codes(dataset: Dataset, _: np.random.Generator) -> np.ndarray:
    """The SIDs of the catalogue's own column, of Qwen3-4B vectors and an RQ-VAE."""
    spelling = Spelling.of("plain", (256, 256, 256))
    return np.array([spelling.read(sid)[0] for sid in dataset.items["sid"]])


GIVEN: dict[str, Callable[[Dataset, np.random.Generator], np.ndarray]] = {
    "random": random_codes,
    "official RQ-VAE": official_codes,
}


def study_recipe(data_set: str, name: str, seed: int, arguments: argparse.Namespace) -> Recipe:
    folder = arguments.out / data_set / f"{name.replace(' ', '_')}-{seed}"
    shared = (f"data={arguments.data}", f"run={folder}", f"seed={seed}", EPOCHS[data_set], *SMALL)
    return load_recipe(ROOT / "recipes" / SETS[data_set], (*shared, *CATALOGS[name]))


def train_one(recipe: Recipe, name: str) -> None:
    """All stages of one catalog; given SIDs are written where the prepare stage would leave them."""
    run_recipe(recipe, stages=["prepare", "embed", "collaborative"])
    folder = Path(recipe.run)
    if name in GIVEN:
        dataset = Dataset.load(folder / "dataset")
        codes = GIVEN[name](dataset, derive_rng(recipe.seed, "given"))
        table = pl.DataFrame({"item_index": range(len(codes)), "codes": codes.tolist()})
        write_parquet(folder / "given_sids.parquet", table)
    run_recipe(recipe, stages=["tokenize", "sft", "evaluate"])


def has_what_it_needs(data_set: str, name: str) -> bool:
    return name != "official RQ-VAE" or data_set == "industrial"


def train_all(arguments: argparse.Namespace) -> None:
    for seed in arguments.seeds:
        for name in arguments.only or CATALOGS:
            for data_set in arguments.sets:
                if not has_what_it_needs(data_set, name):
                    continue
                started = time.perf_counter()
                try:
                    train_one(study_recipe(data_set, name, seed, arguments), name)
                except ItemicError as error:
                    log.warning("%s, %s: left out: %s", data_set, name, error)
                    continue
                log.info("%s, %s, seed %d: %.0f s", data_set, name, seed, time.perf_counter() - started)


def figures_of(folder: Path) -> dict[str, float]:
    """Every quality figure by its path: ``own`` from quality.json, ``text`` and ``log`` against common vectors."""
    catalog = Catalog.load(folder / "catalog")
    dataset = Dataset.load(folder / "dataset")
    ids = dataset.items["item_id"].to_list()
    found = dict(flat(read_json(folder / "catalog" / "quality.json"), ""))
    text = read_embeddings(folder / "embeddings.safetensors", ids)
    common = common_log_vectors(folder, ids)
    for space, x, rows in (("text", text, slice(None)), ("log", common.vectors[common.seen], common.seen)):
        codes = catalog.codes[rows]
        found |= flat(vector_figures(codes, catalog.codebook_sizes, x), f"{space}:")
    return found


def common_log_vectors(folder: Path, ids: Sequence[str]) -> Any:
    """The PPMI factors of this data set and seed, the same for all catalogs: those of the text catalog's run."""
    seed = folder.name.rpartition("-")[2]
    return read_collaborative(folder.parent / f"text_rqkmeans_3x256-{seed}" / "collaborative.safetensors", ids)


def vector_figures(codes: np.ndarray, sizes: tuple[int, ...], x: np.ndarray) -> dict[str, Any]:
    figures = measure_quality(codes, codes, sizes, x)
    return {key: figures[key] for key in ("neighbourhood", "similarity", "distance_correlation")}


LEFT_OUT = (
    *("num_items", "num_levels", "num_labels", "num_queries", "k", "codebook_sizes", "codebook_size", "counts"),
    *("mse", "chance", "max_items", "num", "num_used", "entropy"),
)
"""Keys of what is no figure of merit, or orders catalogs of one size as a neighbour of it does."""


def flat(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inside in value.items():
            if key not in LEFT_OUT:
                yield from flat(inside, f"{path}.{key}" if path and not path.endswith(":") else f"{path}{key}")
    elif isinstance(value, list):
        for place, inside in enumerate(value):
            yield from flat(inside, f"{path}[{place}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, float(value)


def collect(arguments: argparse.Namespace, data_set: str) -> dict[str, list[dict[str, Any]]]:
    """Returns for each catalog a record a seed: valid metrics with intervals, and the quality figures."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in CATALOGS:
        for seed in arguments.seeds:
            folder = arguments.out / data_set / f"{name.replace(' ', '_')}-{seed}"
            if not (folder / "metrics.json").is_file():
                continue
            cached = folder / "study.json"
            if not cached.is_file() or cached.stat().st_mtime < (folder / "metrics.json").stat().st_mtime:
                metrics = read_json(folder / "metrics.json")["recommenders"]["itemic"]["metrics"]
                write_json(cached, {"metrics": metrics, "figures": figures_of(folder)})
            found.setdefault(name, []).append({**read_json(cached), "folder": folder})
    return found


def mean_figures(records: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Returns figure → catalog → mean over seeds, for the figures that every seed of the catalog has."""
    table: dict[str, dict[str, float]] = {}
    for name, seeds in records.items():
        for figure in seeds[0]["figures"]:
            values = [seed["figures"].get(figure) for seed in seeds]
            if None not in values:
                table.setdefault(figure, {})[name] = float(np.mean(values))
    return table


def metric(seeds: Sequence[Mapping[str, Any]], label: str) -> float:
    return float(np.mean([seed["metrics"][label]["value"] for seed in seeds]))


def spearman(x: Sequence[float], y: Sequence[float], rng: np.random.Generator) -> tuple[float, float]:
    """Returns Spearman's rho and the two-sided p-value of 5,000 permutations; NaN where one side is constant."""
    a, b = rankdata(x), rankdata(y)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan"), float("nan")
    a, b = (a - a.mean()) / a.std(), (b - b.mean()) / b.std()
    rho = float(a @ b / len(a))
    shuffled = np.array([a @ rng.permutation(b) for _ in range(5000)]) / len(a)
    return rho, float((1 + (np.abs(shuffled) >= abs(rho) - 1e-9).sum()) / 5001)


def correlations(records: Mapping[str, list[dict[str, Any]]], names: Sequence[str], label: str) -> dict[str, Any]:
    """Returns figure → (rho, p, number of catalogs) for the figures that at least six of the catalogs have."""
    rng = np.random.default_rng(0)
    found = {}
    for figure, values in mean_figures(records).items():
        with_it = [name for name in names if name in values]
        if len(with_it) >= 6:
            target = [metric(records[name], label) for name in with_it]
            rho, p_value = spearman([values[name] for name in with_it], target, rng)
            if np.isfinite(rho):
                found[figure] = (rho, p_value, len(with_it))
    return found


def print_catalogs(records: Mapping[str, list[dict[str, Any]]], data_set: str) -> None:
    print(f"\n### {data_set}: catalogs, on valid\n")
    print("| catalog | seeds | HR@10 (95% interval, seed 0) | NDCG@10 | minus text rqkmeans 3x256: NDCG@10 (seed 0) |")
    print("|---|---|---|---|---|")
    base = records.get("text rqkmeans 3x256")
    for name, seeds in sorted(records.items(), key=lambda entry: -metric(entry[1], "HR@10")):
        first = seeds[0]["metrics"]["HR@10"]
        change = ""
        if base is not None and seeds is not base:
            change = difference(
                *(each[0]["folder"] / "rankings" / "itemic.parquet" for each in (seeds, base)), "NDCG@10"
            )
        each = ", ".join(f"{seed['metrics']['HR@10']['value']:.4f}" for seed in seeds)
        interval = f"{metric(seeds, 'HR@10'):.4f} [{each}] ({first['low']:.4f}–{first['high']:.4f})"
        print(f"| {name} | {len(seeds)} | {interval} | {metric(seeds, 'NDCG@10'):.4f} | {change} |")


def difference(rankings: Path, base: Path, label: str) -> str:
    found = compare_runs(rankings, base, label)
    return f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f}, p = {found.p_value:.3f})"


SELECTIONS: dict[str, Callable[[str], bool]] = {
    "all catalogs": lambda name: True,
    "without the random floor": lambda name: name != "random",
    "catalogs of text vectors alone": lambda name: name.startswith("text"),
}
"""Which catalogs a correlation is over: one far point, or two clouds, can make one by themselves."""


def print_correlations(records: Mapping[str, Mapping[str, list[dict[str, Any]]]], label: str, num_shown: int) -> None:
    """Prints the figures ordered by the correlation on the data set where it is weaker."""
    for title, is_in in SELECTIONS.items():
        by_set = {
            data_set: correlations(found, [name for name in found if is_in(name)], label)
            for data_set, found in records.items()
        }
        common = set.intersection(*(set(found) for found in by_set.values()))
        print(f"\n### Spearman's rho with {label}, {title} ({len(common)} figures)\n")
        print("| figure | " + " | ".join(f"{data_set} rho (p, n)" for data_set in by_set) + " |")
        print("|---|" + "---|" * len(by_set))
        ordered = sorted(common, key=lambda figure: -agreement([by_set[one][figure][0] for one in by_set]))
        for figure in ordered[:num_shown]:
            cells = [f"{rho:+.2f} ({p:.3f}, {n})" for rho, p, n in (by_set[one][figure] for one in by_set)]
            print(f"| `{figure}` | " + " | ".join(cells) + " |")


def agreement(rhos: Sequence[float]) -> float:
    """The smaller size where all signs agree; below zero where they do not."""
    signs = np.sign(rhos)
    return float(np.abs(rhos).min() if (signs == signs[0]).all() else -np.abs(rhos).max())


def compare_on_test(arguments: argparse.Namespace) -> None:
    """Evaluates the named catalogs on test, each against the first, which nothing has been chosen on."""
    for data_set in arguments.sets:
        print(f"\n### {data_set}, on test\n")
        print("| catalog | HR@10 | NDCG@10 | minus the first: HR@10 | NDCG@10 |\n|---|---|---|---|---|")
        lists: list[Path] = []
        for name in arguments.test:
            recipe = study_recipe(data_set, name, arguments.seeds[0], arguments)
            config, folder = replace(recipe.evaluate, split="test"), Path(recipe.run)
            trained = load_trained(folder, num_beams=config.num_beams)
            figures = evaluate_all([trained.recommender], trained.dataset, config, folder / "test", recipe.seed)
            metrics = figures["recommenders"]["itemic"]["metrics"]
            cells = [f"{metrics[label]['value']:.4f}" for label in TARGETS]
            lists.append(folder / "test" / "rankings" / "itemic.parquet")
            cells += ["", ""] if len(lists) == 1 else [difference(lists[-1], lists[0], label) for label in TARGETS]
            print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the Industrial split")
    parser.add_argument("--out", type=Path, required=True, help="where the run folders go")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", choices=list(CATALOGS), help="these catalogs alone")
    parser.add_argument("--tables", action="store_true", help="train nothing")
    parser.add_argument("--test", nargs="+", choices=list(CATALOGS), help="evaluate these trained catalogs on test")
    parser.add_argument("--shown", type=int, default=200, help="rows of a correlation table")
    arguments = parser.parse_args()
    setup_logging()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    if arguments.test:
        compare_on_test(arguments)
        return
    if not arguments.tables:
        train_all(arguments)
    records = {data_set: collect(arguments, data_set) for data_set in arguments.sets}
    for data_set, found in records.items():
        print_catalogs(found, data_set)
    for label in TARGETS:
        print_correlations(records, label, arguments.shown)


if __name__ == "__main__":
    main()
