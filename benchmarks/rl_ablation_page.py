"""The page of rl_ablation.py: paired differences, how each training went, and the tables; trains nothing."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
import transformers

from itemic.core.errors import DataError
from itemic.core.files import atomic_path, write_json
from itemic.core.run import Run
from itemic.core.seeds import derive_rng
from itemic.evaluate.metrics.labels import rank_metric
from itemic.evaluate.significance import bootstrap_intervals

ROOT = Path(__file__).parents[1]
SPLITS: tuple[Literal["valid", "test"], ...] = ("valid", "test")
METRICS = ("HR@10", "NDCG@10", "HR@50")
CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
JUDGED = "judged"
"""Folder, in a run, of the figures and ranks on each split."""
START_NAMES = {"sft": "*SFT*", "words": "*SFT, next item alone*", "words_aligned": "*SFT with text tasks*"}
"""What tables call a model before RL, by its run folder."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A variant's run of one seed."""

    seed: int
    before: Path
    folder: Path


def read_ranks(folder: Path, split: str) -> pl.DataFrame:
    return pl.read_parquet(folder / JUDGED / split / "rankings" / "itemic.parquet").sort("example_id")


def compare(runs: Sequence[Trained], split: str) -> dict[str, Any]:
    """Returns each metric before and after and their difference, of the mean over seeds with an interval and of each.

    Users are resampled, so the interval says what other users would change; what other seeds would, the seeds say.
    """
    tables = [[read_ranks(folder, split) for folder in (run.before, run.folder)] for run in runs]
    examples = tables[0][0].select("example_id", "user_id", "target")
    if not all(table.select(examples.columns).equals(examples) for pair in tables for table in pair):
        raise DataError(f"{runs[0].folder}: its seeds rank other examples of {split} than one another")
    values = np.array([[metric_columns(table) for table in pair] for pair in tables])  # seed, side, example, metric
    before, after = values.mean(axis=(0, 2))
    changes = values[:, 1] - values[:, 0]
    low, high = bootstrap_intervals(
        changes.mean(axis=0),
        examples["user_id"].rank("dense").cast(pl.Int64).to_numpy(),
        num_bootstrap=NUM_RESAMPLES,
        confidence=CONFIDENCE,
        rng=derive_rng(0, "rl_ablation", split),
    )
    return {
        label: {
            "before": float(before[place]),
            "after": float(after[place]),
            "difference": float(after[place] - before[place]),
            "low": float(low[place]),
            "high": float(high[place]),
            "by_seed": {str(run.seed): float(changes[row, :, place].mean()) for row, run in enumerate(runs)},
            "num_examples": examples.height,
        }
        for place, label in enumerate(METRICS)
    }


def metric_columns(table: pl.DataFrame) -> np.ndarray:
    ranks = (table["num_better"].to_numpy(), table["num_tied"].to_numpy())
    return np.stack([rank_metric(label, *ranks) for label in METRICS], axis=1)


def course(run: Trained) -> dict[str, Any]:
    """Returns how a training went: its stage's figures, and of each logged figure the first and the last tenth."""
    entry = Run(run.folder).manifest()["stages"]["rl"]
    lines = pl.read_ndjson(run.folder / "rl" / "rl.jsonl", infer_schema_length=None)
    names = [
        name for name in lines.columns if name in ("hit_share", "entropy", "kl", "distinct") or name[:6] == "reward"
    ]
    steps = lines.filter(pl.col("loss").is_not_null()) if "loss" in lines.columns else lines.clear()
    tenth = max(1, steps.height // 10)
    validations = lines.filter(pl.col("valid_ndcg@10").is_not_null()) if "valid_ndcg@10" in lines.columns else None
    valid = [] if validations is None else validations["valid_ndcg@10"].to_list()
    figures = entry["metrics"]
    return {
        "seed": run.seed,
        "folder": run.folder.name,
        **figures,
        "s_per_step": figures["train_s"] / max(1, figures["num_steps"]),
        "device": entry["device"],
        "logged": {name: [steps[name].head(tenth).mean(), steps[name].tail(tenth).mean()] for name in names},
        "valid_ndcg": [valid[0], max(valid), valid[-1]] if valid else [],
    }


def collect(found: Mapping[tuple[str, str], Mapping[str, Sequence[Trained]]]) -> list[dict[str, Any]]:
    """Returns a record for each study and data set."""
    return [
        {
            "study": study,
            "data_set": data_set,
            "variants": {
                name: {
                    "start": runs[0].before.name,
                    "seeds": [run.seed for run in runs],
                    **{split: compare(runs, split) for split in SPLITS},
                    "courses": [course(run) for run in runs],
                    "rl": Run(runs[0].folder).manifest()["stages"]["rl"]["config"],
                }
                for name, runs in variants.items()
            },
        }
        for (study, data_set), variants in found.items()
    ]


def short(value: float | None, sign: str = "-") -> str:
    """Returns a figure as tables have it: ``.1041``, ``−.0012``, and with ``sign="+"`` also ``+.0012``."""
    if value is None:
        return ""
    digits = f"{abs(value):.4f}"
    before = "−" if value < 0 else "+" if sign == "+" else ""
    return before + digits.removeprefix("0")


def change(figures: Mapping[str, Any]) -> str:
    return f"{short(figures['difference'], '+')} ({short(figures['low'], '+')} to {short(figures['high'], '+')})"


def verdict(record: Mapping[str, Any]) -> str:
    """Returns in words what RL did to test NDCG@10."""
    ((_, variant),) = record["variants"].items()
    figures = variant["test"]["NDCG@10"]
    verb = "raises" if figures["low"] > 0 else "lowers" if figures["high"] < 0 else "does not clearly change"
    seeds = figures["by_seed"].values()
    return (
        f"On {record['data_set'].capitalize()} RL {verb} NDCG@10 on test: {short(figures['before'])} before, "
        f"{short(figures['after'])} after, {change(figures)}; up in {sum(value > 0 for value in seeds)} of "
        f"{len(seeds)} seeds."
    )


def before_after_table(record: Mapping[str, Any]) -> list[str]:
    ((_, variant),) = record["variants"].items()
    seeds = variant["seeds"]
    lines = [
        f"\n### {record['data_set'].capitalize()}: before and after RL, seeds {', '.join(map(str, seeds))}\n",
        "| split | metric | before | after | difference (95% interval) | "
        + " | ".join(f"seed {s}" for s in seeds)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(seeds),
    ]
    for split in SPLITS:
        for label, figures in variant[split].items():
            each = [short(figures["by_seed"][str(seed)], "+") for seed in seeds]
            cells = [split, label, short(figures["before"]), short(figures["after"]), change(figures), *each]
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, *course_table(record)]


def ablation_table(record: Mapping[str, Any]) -> list[str]:
    variants = sorted(record["variants"].items(), key=lambda entry: -entry[1]["valid"]["NDCG@10"]["after"])
    seeds = sorted({seed for _, variant in variants for seed in variant["seeds"]})
    lines = [
        f"\n### {record['data_set'].capitalize()}: {record['study']}, seeds {', '.join(map(str, seeds))}\n",
        "| variant | valid NDCG@10 | valid HR@50 | test HR@10 | test NDCG@10 | test HR@50 "
        "| test NDCG@10 minus its SFT (95% interval) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, variant in variants:
        valid, test = variant["valid"], variant["test"]
        shown = [valid["NDCG@10"], valid["HR@50"], *(test[label] for label in METRICS)]
        cells = [name, *(short(figures["after"]) for figures in shown), change(test["NDCG@10"])]
        lines.append("| " + " | ".join(cells) + " |")
    for start, (valid, test) in starts(variants).items():
        shown = [valid["NDCG@10"], valid["HR@50"], *(test[label] for label in METRICS)]
        lines.append("| " + " | ".join([start, *(short(figures["before"]) for figures in shown), ""]) + " |")
    return [*lines, *course_table(record)]


def starts(variants: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, tuple[Any, Any]]:
    """Returns the figures of the models that variants began from, by what the tables call them."""
    return {START_NAMES[variant["start"]]: (variant["valid"], variant["test"]) for _, variant in variants}


def course_table(record: Mapping[str, Any]) -> list[str]:
    lines = [
        "\n| variant, seed | steps (kept) | s a step | hit share | entropy | rewards | NDCG@10 in training | stopped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, variant in record["variants"].items():
        for one in variant["courses"]:
            logged = {key: " → ".join(map(short, pair)) for key, pair in one["logged"].items()}
            rewards = [f"{key[7:]} {value}" for key, value in logged.items() if key.startswith("reward/")]
            cells = [
                f"{name}, {one['seed']}",
                f"{one['num_steps']} ({one['best_step']})",
                f"{one['s_per_step']:.2f}",
                *(logged.get(key, "") for key in ("hit_share", "entropy")),
                "; ".join(rewards),
                ", ".join(map(short, one["valid_ndcg"])),
                one.get("stop_reason", "no gain for long" if one["stopped_early"] else ""),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def write_page(records: Sequence[Mapping[str, Any]], made: Mapping[str, Any], notes: Sequence[str], path: Path) -> None:
    """Writes the page, and its figures as JSON beside it."""
    with atomic_path(path) as temporary:
        temporary.write_text(page(records, made, notes), encoding="utf-8")
    write_json(path.with_suffix(".json"), {"made": made, "studies": records})


def page(records: Sequence[Mapping[str, Any]], made: Mapping[str, Any], notes: Sequence[str]) -> str:
    """Returns the page; notes come last."""
    main = [record for record in records if record["study"] == "before_after"]
    lines = ["# What RL adds to supervised fine-tuning\n", " ".join(map(verdict, main)), ""]
    lines += [f"`{made['command']}`, commit {made['commit']}; {made['hardware']}; {made['versions']}.\n", NOTES]
    for record in records:
        lines += before_after_table(record) if record["study"] == "before_after" else ablation_table(record)
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


NOTES = """\
Every model ranks all users of valid and test with the recipe's beams. Intervals are of the mean over seeds, paired,
users resampled 10,000 times: they hold what other users would change, not what other seeds would, which the seeds' own
differences show. RL keeps the checkpoint with the best NDCG@10 on a part of valid, as far as HR@50 is kept, the start
included, so valid flatters it; nothing is chosen on test. Ablations are ordered by NDCG@10 on all of valid and not
corrected for many tests.

Second tables: steps taken and the step that was kept (0: the model that RL began from); seconds a step, validations
included; hit share (questions of which some answer was right), entropy (nats a code) and mean reward by component over
the first and the last tenth of the training; NDCG@10 of the validations, the first, the best, the last. A reward that
rises while `rule` and the last NDCG@10 fall is hacked."""


def made_by() -> dict[str, Any]:
    """Returns what the page says of its making."""
    arguments = [without_place(argument) for argument in sys.argv[1:] if argument != "--tables"]
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, check=False, capture_output=True, text=True).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return {
        "command": shlex.join(["python", "benchmarks/rl_ablation.py", *arguments]),
        "commit": commit or "unknown",
        "hardware": f"{device} ({platform.machine()}), {torch.get_num_threads()} threads",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def without_place(argument: str) -> str:
    """Returns an argument, or FOLDER where it says where something lies on this machine."""
    return "FOLDER" if argument.startswith(("/", "~")) else argument
