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
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rl_ablation_page import JUDGED, SPLITS, Trained, collect, made_by, write_page

from itemic.core.config import config_from_mapping, config_to_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError, ItemicError
from itemic.core.files import atomic_folder, read_json, text_hash, write_json
from itemic.core.progress import setup_logging
from itemic.core.run import Run
from itemic.core.seeds import derive_rng
from itemic.core.trained_model import ModelChoice, find_model
from itemic.evaluate.evaluate import evaluate_all
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
FREE_KEYS = ("tasks", "rewards")

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
    "sft.training.epochs=5",
    "sft.training.learning_rate=2.0e-3",
)
SFT_TASKS: dict[str, dict[str, float]] = {
    "words": {"next_item": 1.0},
    "words_aligned": {
        "next_item": 1.0,
        "titles_to_sid": 0.02,
        "title_to_sid": 1.0,
        "sid_to_title": 0.5,
        "description_to_sid": 0.2,
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

WORDS_NOTE = f"""\
Alignment needs a backbone that reads words. This one is small ({WORDS_DECODER.num_layers} layers, \
{WORDS_DECODER.hidden_size} wide, {NUM_WORD_TOKENS:,} byte-level tokens learned from the titles) and has read nothing
else: it begins from random weights, so what a pretrained one knows of words is not in these rows. It is fine-tuned for
few epochs, each with every next-item example, with text tasks beside them or without.
Steps of RL are as many in every row, so with text tasks fewer of them ask for a next item."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One training by RL, for every seed a run of its own."""

    name: str
    start: str
    """Run folder of the fine-tuning that it begins from."""
    config: RlConfig


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
    if not {"prepare", "tokenize", "sft"} <= made.keys() or not run.path("model").is_dir():
        return False
    if made["sft"]["seed"] != recipe.seed:
        return False
    for name in ("tokenize", "sft", "prepare"):
        wanted = getattr(recipe, name)
        # Read back, so that settings which are newer than the run have their defaults.
        found = config_from_mapping(type(wanted), made[name]["config"], source=f"{run.manifest_path}, {name}")
        if deciding(found) != deciding(wanted):
            what = "kept all the same" if name == "prepare" else "trained again"
            log.warning("%s: the recipe has other settings for %s; %s", run.folder, name, what)
            return name == "prepare"
    return True


def deciding(config: Any) -> Any:
    """Returns settings as plain values without file names, checkpoints and trackers, which do not decide the result."""
    return without_files(config_to_mapping(config))


def without_files(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return None if isinstance(value, str) and "/" in value else value
    left_out = ("backbone", "checkpoint_every_s", "trackers")
    return {key: without_files(inside) for key, inside in value.items() if key not in left_out}


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
    """Returns the run folder of a training: another one for another start, setting or seed.

    Settings at their defaults are not in the name, so that a run keeps it when a setting is added. When a default
    changes, a run is found under the name of another one: then ``check_settings`` leaves it out of tables, and without
    ``--tables`` it is trained again.
    """
    start = find_model(before, "sft").content
    settings = changed(config_to_mapping(config), config_to_mapping(RlConfig()))
    digest = text_hash(json.dumps(settings, sort_keys=True), start, str(seed))[:10]
    return before.folder.parent / f"{before.folder.name}-rl-{digest}"


def changed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that are not their defaults; tasks and rewards, whose keys are free, whole."""
    found = {}
    for key, value in settings.items():
        is_section = isinstance(value, Mapping) and value.keys() == defaults[key].keys() and key not in FREE_KEYS
        inside = changed(value, defaults[key]) if is_section else value
        if value != defaults[key]:
            found[key] = inside
    return found


def train_variant(variant: Variant, data_set: str, seed: int, arguments: argparse.Namespace) -> Trained:
    """Trains and judges a variant, and the model that it began from, as far as that is not done."""
    recipe = study_recipe(data_set, seed, variant.start, arguments)
    before = Run(Path(recipe.run))
    if not arguments.tables:
        fine_tune(recipe, study_recipe(data_set, seed, "sft", arguments))
    folder = variant_folder(before, variant.config, seed)
    if arguments.tables:
        check_settings(Run(folder), variant.config)
    else:
        log.info("%s, seed %d, %s: %s", data_set, seed, variant.name, folder)
        judge(before, "sft", recipe)
        start_run(before, folder, ("prepare", "embed", "collaborative", "tokenize", "align", "sft"))
        share_rewards(folder, before.folder.parent / "rewards")
        run_recipe(replace(recipe, run=folder.as_posix(), rl=variant.config), stages=["rl"])
        judge(Run(folder), "rl", recipe)
    return Trained(seed=seed, before=before.folder, folder=folder)


def check_settings(run: Run, config: RlConfig) -> None:
    """Refuses a run of other settings: its name says how they differed from what the defaults were when it was made.

    Raises:
        ConfigError: saying which settings differ.
    """
    made = run.manifest()["stages"].get("rl")
    if made is None:
        return
    # Read back, so that settings which are newer than the run have their defaults.
    found = config_from_mapping(RlConfig, made["config"], source=f"{run.manifest_path}, rl")
    others = changed(deciding(found), deciding(config))
    if others:
        raise ConfigError(f"{run.folder}: trained with other settings: {json.dumps(others, sort_keys=True)}")


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
    records = collect(train_all(arguments))
    notes = [WORDS_NOTE] if "alignment" in arguments.studies else []
    path = arguments.page or arguments.work / "rl_ablation.md"
    write_page(records, made_by(), notes, path)
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
