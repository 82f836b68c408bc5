"""What RL adds to supervised fine-tuning on real data, and which part of it does: runs, then one page and its figures.

    python benchmarks/rl_ablation.py --industrial FOLDER --beauty FOLDER --work runs/rl_ablation --seeds 0 1 2
    python benchmarks/rl_ablation.py --industrial FOLDER --studies sampling reward --rl-steps 200    # some of it
    python benchmarks/rl_ablation.py --industrial FOLDER --beauty FOLDER --tables    # the page of what is there

WORK/<data set>/s<seed>/sft is a run of the recipe up to sft; a trained one that lies there is kept if its semantic IDs
and its training are the recipe's. Every variant of RL is a run folder beside it, named by all that decides it, which
begins from that model: what is done is skipped, what was killed goes on, equal variants of two studies are one run.
Each model ranks all of valid and test; differences are paired by user. Several of these commands may share WORK as long
as each trains other seeds or studies.
"""

import argparse
import contextlib
import datetime
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
import transformers

from itemic.core.config import config_to_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError, DataError, ItemicError
from itemic.core.files import atomic_folder, atomic_path, read_json, text_hash, write_json
from itemic.core.progress import setup_logging
from itemic.core.run import Run
from itemic.core.seeds import derive_rng
from itemic.core.trained_model import ModelChoice, find_model
from itemic.evaluate.evaluate import evaluate_all
from itemic.evaluate.metrics.labels import rank_metric
from itemic.evaluate.significance import bootstrap_intervals
from itemic.inference import load_trained
from itemic.language.prompts import PROMPTS, SYSTEM
from itemic.model.backbone import DecoderConfig, make_decoder, save_network
from itemic.pipeline import run_recipe
from itemic.recipe import Recipe, load_recipe
from itemic.train.rl.config import RlConfig
from itemic.train.rl.rollout import RolloutConfig, Sampler

log = logging.getLogger("itemic")

ROOT = Path(__file__).parents[1]
SETS = ("industrial", "beauty")
SPLITS: tuple[Literal["valid", "test"], ...] = ("valid", "test")
METRICS = ("HR@10", "NDCG@10", "HR@50")
CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
JUDGED = "judged"

SAMPLERS: dict[str, Sampler] = {
    "top-k (common)": "top-k",
    "dynamic": "dynamic",
    "beam": "beam",
    "Gumbel without replacement": "gumbel",
}

REWARDS: dict[str, dict[str, float]] = {
    "rule": {"rule": 1.0},
    "rank": {"rank": 1.0, "rule": 0.0},
    "hybrid: rule + rank": {"rule": 1.0, "rank": 1.0},
    "hybrid of the reference's code: rule + rank-if-hit": {"rule": 1.0, "rank-if-hit": 1.0},
    "collaborative": {"collaborative": 1.0, "rule": 0.0},
    "rule + 0.1 collaborative": {"rule": 1.0, "collaborative": 0.1},
    "prefix": {"prefix": 1.0, "rule": 0.0},
    "semantic": {"semantic": 1.0, "rule": 0.0},
}
"""Weights of rewards; those of 0 are computed for the log alone. A tenth of the collaborative reward, since its logits
lie further apart than the 0 and 1 of rule."""

WORDS_DECODER = DecoderConfig(hidden_size=128, num_layers=3, num_heads=4, intermediate_size=512, dropout=0.0)
NUM_WORD_TOKENS = 2000
WORDS = (
    "sft.max_history=10",
    "sft.stride=10",
    "sft.row_tokens=512",
    "sft.rows_per_batch=2",
    "sft.training.epochs=4",
    "sft.training.learning_rate=2.0e-3",
)
SFT_TASKS: dict[str, dict[str, float]] = {
    "words": {"next_item": 0.3},
    "words_aligned": {
        "next_item": 0.3,
        "titles_to_sid": 0.03,
        "title_to_sid": 1.0,
        "sid_to_title": 0.5,
        "description_to_sid": 0.3,
    },
}
"""Run folder of a fine-tuning to its tasks: the next-item examples are as many with text tasks as without."""
RL_TASKS: dict[str, dict[str, float]] = {
    "next item": {"next_item": 1.0},
    "aligned": {"next_item": 1.0, "titles_to_sid": 0.1, "title_to_sid": 1.0, "description_to_sid": 0.5},
}
ALIGNMENTS = {
    "none": ("words", "next item"),
    "SFT only": ("words_aligned", "next item"),
    "RL only": ("words", "aligned"),
    "both": ("words_aligned", "aligned"),
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One training by RL, for every seed a run of its own."""

    name: str
    start: str
    """Run folder of the fine-tuning that it begins from."""
    config: RlConfig


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A variant's run of one seed."""

    seed: int
    before: Path
    folder: Path


def before_after(config: RlConfig, _: int) -> list[Variant]:
    return [Variant(name="the recipe", start="sft", config=config)]


def sampling(config: RlConfig, num_steps: int) -> list[Variant]:
    shared = {name: getattr(config.rollout, name) for name in ("group_size", "add_ground_truth", "batch_size")}
    rollouts = {name: RolloutConfig(sampler=sampler, **shared) for name, sampler in SAMPLERS.items()}
    short = with_steps(config, num_steps)
    return [
        Variant(name=name, start="sft", config=replace(short, rollout=rollout)) for name, rollout in rollouts.items()
    ]


def reward(config: RlConfig, num_steps: int) -> list[Variant]:
    short = with_steps(config, num_steps)
    return [
        Variant(name=name, start="sft", config=replace(short, rewards=weights)) for name, weights in REWARDS.items()
    ]


def alignment(config: RlConfig, num_steps: int) -> list[Variant]:
    short = replace(with_steps(config, num_steps), max_history=10)
    return [
        Variant(name=name, start=start, config=replace(short, tasks=RL_TASKS[asked]))
        for name, (start, asked) in ALIGNMENTS.items()
    ]


STUDIES: dict[str, Callable[[RlConfig, int], list[Variant]]] = {
    "before_after": before_after,
    "sampling": sampling,
    "reward": reward,
    "alignment": alignment,
}


def with_steps(config: RlConfig, num_steps: int) -> RlConfig:
    """Returns the config for that many steps, or as many as its epochs have."""
    return replace(config, training=replace(config.training, max_steps=num_steps))


def study_recipe(data_set: str, seed: int, start: str, arguments: argparse.Namespace) -> Recipe:
    """Returns the recipe of a fine-tuning; the folder of its run is WORK/<data set>/s<seed>/<start>."""
    place = arguments.work / data_set / f"s{seed}"
    changes = [f"data={getattr(arguments, data_set)}", f"run={place / start}", f"seed={seed}"]
    if start in SFT_TASKS:
        changes += [f"sft.backbone={place / 'backbone'}", f"sft.tasks={SFT_TASKS[start]}", *WORDS]
    recipe = load_recipe(ROOT / "recipes" / f"{data_set}.yaml", (*changes, *arguments.set))
    if recipe.rl is None:
        raise ConfigError(f"recipes/{data_set}.yaml: has no section rl; --set rl={{}} takes the defaults")
    return recipe


def fine_tune(recipe: Recipe, plain: Recipe) -> None:
    """Runs all stages up to sft, unless a model of such codes and such a training is there.

    Args:
        recipe: Of the fine-tuning.
        plain: Of the one without words, whose dataset and codes the others share.
    """
    run = Run(Path(recipe.run))
    if is_fine_tuned(run, recipe):
        return
    if recipe.sft.backbone:
        fine_tune(plain, plain)
        start_run(Run(Path(plain.run)), run.folder, ("prepare", "embed", "collaborative", "tokenize"))
        make_backbone(Dataset.load(run.path("dataset")), Path(recipe.sft.backbone), recipe.seed)
        run_recipe(recipe, stages=["sft"])
    else:
        run_recipe(recipe, stages=["prepare", "embed", "tokenize", "sft"])


def is_fine_tuned(run: Run, recipe: Recipe) -> bool:
    """Returns whether the run's semantic IDs and model were made as the recipe says, from whichever files."""
    made = run.manifest()["stages"]
    wanted = {name: config_to_mapping(getattr(recipe, name)) for name in ("prepare", "tokenize", "sft")}
    for name in ("checkpoint_every_s", "trackers"):  # do not decide the result
        del wanted["sft"]["training"][name]
    if not wanted.keys() <= made.keys() or made["sft"]["seed"] != recipe.seed or not run.path("model").is_dir():
        return False
    different = [name for name in wanted if without_files(made[name]["config"]) != without_files(wanted[name])]
    if different and different != ["prepare"]:
        return False
    if different:
        log.warning("%s: prepared with other settings than the recipe's, kept all the same", run.folder)
    return True


def without_files(config: Mapping[str, Any]) -> Any:
    """Returns settings without the names of files, which say nothing of what is in them."""
    if not isinstance(config, Mapping):
        return config
    return {
        key: without_files(value)
        for key, value in config.items()
        if key != "backbone" and not (isinstance(value, str) and "/" in value)
    }


def start_run(run: Run, folder: Path, stages: Sequence[str]) -> None:
    """Makes a run folder that has some of another one's stages; files are shared, for no stage changes one in place."""
    if (folder / "manifest.json").is_file():
        return
    manifest = run.manifest()
    kept = {name: entry for name, entry in manifest["stages"].items() if name in stages}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        for output in (output for entry in kept.values() for output in entry["outputs"]):
            link(run.path(output), temporary / output)
        write_json(temporary / "manifest.json", {**manifest, "stages": kept})


def link(source: Path, target: Path) -> None:
    """Links the files of a path, or copies them where the file system has no links."""

    def take(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    if source.is_dir():
        shutil.copytree(source, target, copy_function=take)
    elif source.exists():  # a list of rejects is no input of anything
        target.parent.mkdir(parents=True, exist_ok=True)
        take(str(source), str(target))


def make_backbone(dataset: Dataset, folder: Path, seed: int) -> None:
    """Writes a small language model that has read nothing, with byte-level tokens learned from the titles."""
    if (folder / "config.json").is_file():
        return
    tokenizer = learn_tokens([*dataset.items["title"].drop_nulls(), *[SYSTEM, *PROMPTS.values()] * 100])
    network = make_decoder(WORDS_DECODER, len(tokenizer), derive_rng(seed, "words", "backbone"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        save_network(network, tokenizer, temporary)


def learn_tokens(texts: Sequence[str]) -> Any:
    """Returns a tokenizer whose first ids are those that ``make_decoder`` takes padding, beginning and end to be."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_WORD_TOKENS,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def variant_folder(before: Run, config: RlConfig, seed: int) -> Path:
    """Returns the run folder of a training: another one for another start, setting or seed."""
    start = find_model(before, "sft").content
    digest = text_hash(str(config_to_mapping(config)), start, str(seed))[:10]
    return before.folder.parent / f"{before.folder.name}-rl-{digest}"


def train_variant(variant: Variant, data_set: str, seed: int, arguments: argparse.Namespace) -> Trained:
    """Trains and judges a variant, and the model that it began from, as far as that is not done."""
    recipe = study_recipe(data_set, seed, variant.start, arguments)
    before = Run(Path(recipe.run))
    if not arguments.tables:
        fine_tune(recipe, study_recipe(data_set, seed, "sft", arguments))
    folder = variant_folder(before, variant.config, seed)
    if not arguments.tables:
        log.info("%s, seed %d, %s: %s", data_set, seed, variant.name, folder)
        judge(before, "sft", recipe)
        start_run(before, folder, ("prepare", "embed", "collaborative", "tokenize", "align", "sft"))
        share_rewards(folder, before.folder.parent / "rewards")
        run_recipe(replace(recipe, run=folder.as_posix(), rl=variant.config), stages=["rl"])
        judge(Run(folder), "rl", recipe)
    return Trained(seed=seed, before=before.folder, folder=folder)


def share_rewards(folder: Path, cache: Path) -> None:
    """Lets all variants of a data set and seed keep what rewards fit in one folder, so that it is fitted once."""
    cache.mkdir(parents=True, exist_ok=True)
    place = folder / "rl" / "rewards"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        with contextlib.suppress(OSError):  # without links each variant fits its own
            place.symlink_to(cache.resolve(), target_is_directory=True)


def judge(run: Run, model: ModelChoice, recipe: Recipe) -> None:
    """Ranks valid and test with a model and leaves figures and ranks in the run folder."""
    missing = []
    for split in SPLITS:
        config = replace(recipe.evaluate, split=split, baselines=())
        made_from = {"model": find_model(run, model).content, "config": config_to_mapping(config)}
        card = run.path(f"{JUDGED}/{split}/made_from.json")
        if not (card.is_file() and read_json(card) == made_from):
            missing.append((config, made_from, card))
    if not missing:
        return
    trained = load_trained(run.folder, model=model, num_beams=recipe.evaluate.num_beams, calibrated=False)
    for config, made_from, card in missing:
        card.unlink(missing_ok=True)
        # The seed draws a subset, if one is asked for, which must be the same for all.
        evaluate_all([trained.recommender], trained.dataset, config, card.parent, seed=0)
        write_json(card, made_from)


def train_all(arguments: argparse.Namespace) -> dict[tuple[str, str], dict[str, list[Trained]]]:
    """Returns the runs of each variant, by study and data set, after training those that are not there."""
    found: dict[tuple[str, str], dict[str, list[Trained]]] = {}
    for study, data_set, seed in all_trainings(arguments):
        config = study_recipe(data_set, seed, "sft", arguments).rl
        assert config is not None
        for variant in STUDIES[study](config, arguments.rl_steps):
            try:
                trained = train_variant(variant, data_set, seed, arguments)
            except ItemicError as error:
                log.warning("%s, seed %d, %s, %s: left out: %s", data_set, seed, study, variant.name, error)
                continue
            if all((trained.folder / JUDGED / split / "made_from.json").is_file() for split in SPLITS):
                found.setdefault((study, data_set), {}).setdefault(variant.name, []).append(trained)
    return found


def all_trainings(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Yields study, data set and seed; ablations are of the first data set, alignment where there are descriptions."""
    given = [data_set for data_set in SETS if getattr(arguments, data_set)]
    for study in arguments.studies:
        is_main = study == "before_after"
        data_sets = given if is_main else [name for name in arguments.ablation_sets if name in given]
        for data_set in data_sets:
            for seed in arguments.seeds if is_main else arguments.ablation_seeds or arguments.seeds[:1]:
                yield study, data_set, seed


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
    found: dict[str, tuple[Any, Any]] = {}
    for name, variant in variants:
        start = ALIGNMENTS[name][0] if name in ALIGNMENTS else "sft"
        label = {"words": "*SFT, next item alone*", "words_aligned": "*SFT with text tasks*"}.get(start, "*SFT*")
        found[label] = (variant["valid"], variant["test"])
    return found


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


def page(records: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> str:
    """Returns the page."""
    main = [record for record in records if record["study"] == "before_after"]
    lines = ["# What RL adds to supervised fine-tuning\n", " ".join(map(verdict, main)), ""]
    lines += [f"`{made['command']}`, commit {made['commit']}; {made['hardware']}; {made['versions']}.\n", NOTES]
    for record in records:
        lines += before_after_table(record) if record["study"] == "before_after" else ablation_table(record)
    if any(record["study"] == "alignment" for record in records):
        lines += ["", WORDS_NOTE]
    return "\n".join(lines) + "\n"


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

WORDS_NOTE = f"""\
Alignment needs a backbone that reads words. This one is small ({WORDS_DECODER.num_layers} layers, \
{WORDS_DECODER.hidden_size} wide, {NUM_WORD_TOKENS:,} byte-level tokens learned from the titles) and has read nothing
else: it begins from random weights, so what a pretrained one knows of words is not in these rows. Its fine-tuning is
short too, with {SFT_TASKS["words"]["next_item"]:g} of the next-item examples an epoch, with text tasks and without.
Steps of RL are as many in every row, so with text tasks fewer of them ask for a next item."""


def made_by() -> dict[str, Any]:
    """Returns what the page says of its making."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, check=False, capture_output=True, text=True).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return {
        "command": shlex.join(["python", "benchmarks/rl_ablation.py", *map(without_place, sys.argv[1:])]),
        "commit": commit or "unknown",
        "hardware": f"{device} ({platform.machine()}), {torch.get_num_threads()} threads",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def without_place(argument: str) -> str:
    """Returns an argument, or FOLDER where it says where something lies on this machine."""
    return "FOLDER" if argument.startswith(("/", "~")) else argument


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for data_set in SETS:
        parser.add_argument(f"--{data_set}", type=Path, help=f"folder of the files of recipes/{data_set}.yaml")
    parser.add_argument("--work", type=Path, default=Path("runs/rl_ablation"), help="where the run folders go")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of before_after")
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=list(STUDIES))
    parser.add_argument("--ablation-sets", nargs="+", default=["industrial"], choices=list(SETS))
    parser.add_argument("--ablation-seeds", nargs="+", type=int, help="of the other studies; the first of --seeds")
    parser.add_argument("--rl-steps", type=int, default=300, help="optimiser steps of each ablation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of both recipes")
    parser.add_argument("--page", type=Path, help="where the page goes, figures beside it; WORK/rl_ablation.md")
    parser.add_argument("--tables", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    if not any(getattr(arguments, data_set) for data_set in SETS):
        parser.error("say where the files are: --industrial FOLDER, --beauty FOLDER")
    setup_logging()
    torch.set_num_threads(arguments.threads)
    records, made = collect(train_all(arguments)), made_by()
    path = arguments.page or arguments.work / "rl_ablation.md"
    with atomic_path(path) as temporary:
        temporary.write_text(page(records, made), encoding="utf-8")
    write_json(path.with_suffix(".json"), {"made": made, "studies": records})
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
