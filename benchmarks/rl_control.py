"""What supervised fine-tuning on the very rows that RL asked about would have brought: the control of every gain.

    python benchmarks/rl_control.py --run runs/industrial

The run has a model before and after RL, from a recipe with sid-only prompts and next-item questions. The model before
is fine-tuned on, on the newest rows that RL asked about, its best step chosen by the same validation score as RL's.
Then all three rank valid and test, and differences are paired by user.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
import tyro

from itemic.core.allocator import tune_allocator
from itemic.core.dataset import Dataset
from itemic.core.run import Run
from itemic.core.trained_model import find_model
from itemic.decode.recommender import LanguageModelRecommender
from itemic.evaluate.evaluate import evaluate_all
from itemic.inference import load_trained
from itemic.language.corpus import Corpus, example_groups
from itemic.language.packing import Group
from itemic.language.prompts import Renderer
from itemic.language.recency import are_newest
from itemic.language.tasks import TASKS, ItemTexts
from itemic.model.sid_model import SidModel
from itemic.recipe import Recipe, load_recipe
from itemic.sid.catalog import Catalog
from itemic.train.learner import SftLearner
from itemic.train.loop import TrainConfig, train
from itemic.train.rl.guards import guarded_score
from itemic.train.start import load_start
from itemic.train.validation import make_ranking


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared."""

    run: Path
    """A run folder after RL."""
    learning_rate: float = 1e-4
    epochs: int = 2
    validate_every_steps: int = 20
    rows_per_batch: int = 8
    max_examples: int = 0
    """Examples ranked of each split; 0 ranks all."""
    threads: int = 2


class NewestRows(Corpus):
    """The next-item examples of the newest training rows alone, each with its own prompt."""

    share: float = 1.0

    def epoch(self, rng: np.random.Generator) -> list[Group]:
        """Returns them in random order."""
        train = self.dataset.train
        newest = train.filter(pl.Series(are_newest(train["timestamp"], self.share)))
        texts = ItemTexts.from_items(self.dataset.items)
        groups = example_groups(newest, TASKS["next_item"], 0, texts, self.renderer)
        return [groups[index] for index in rng.permutation(len(groups))]


class Control(SftLearner):
    """Fine-tuning that is judged as RL is."""

    rank: Callable[[], dict[str, float]]
    first_hit_rate: float | None = None

    def validate(self) -> dict[str, float]:
        """Returns NDCG@10 as far as HR@50 is kept, and the ranking figures."""
        figures = self.rank()
        if self.first_hit_rate is None:
            self.first_hit_rate = figures["valid_hr@50"]
        score = guarded_score(figures["valid_ndcg@10"], figures["valid_hr@50"], self.first_hit_rate)
        return {"valid_score": score, **figures}


def fine_tune_on(config: Config, run: Run, recipe: Recipe, dataset: Dataset, catalog: Catalog) -> SidModel:
    """Returns the model before RL after it learned the rows that RL asked about."""
    assert recipe.rl is not None, "the run's recipe has no section rl"
    model = load_start(run.path("model"), catalog, torch.device("cpu"), stage="sft")
    renderer = Renderer(model.tokenizer, model.spelling, catalog.codes, model.prompt_mode)
    max_history = find_model(run, "sft").max_history
    corpus = NewestRows(dataset, renderer, {"next_item": 1.0}, max_history=max_history, stride=max_history)
    corpus.share = recipe.rl.newest_share
    row_tokens = recipe.sft.row_tokens
    learner = Control(model, corpus, row_tokens=row_tokens, rows_per_batch=config.rows_per_batch, seed=recipe.seed)
    learner.lower_is_better = False
    learner.rank = make_ranking(
        dataset,
        catalog,
        model,
        renderer,
        max_history=max_history,
        max_examples=recipe.rl.max_valid_examples,
        num_beams=recipe.rl.valid_beams,
        cutoffs=(10, 50),
        labels=("NDCG@10", "HR@10", "HR@50"),
        seed=recipe.seed,
    )
    training = TrainConfig(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        weight_decay=0.0,
        validate_every_steps=config.validate_every_steps,
        validate_at_start=True,
    )
    folder = run.path("control")
    result = train(
        learner,
        training,
        folder=folder / "checkpoints",
        log_path=folder / "sft.jsonl",
        fingerprint="",
        seed=recipe.seed,
    )
    print(f"kept step {result.best_step} of {result.num_steps}, score {result.best_value:.4f}")
    model.network.eval()
    return model


def main(config: Config) -> None:
    """Prints a table of all three models."""
    tune_allocator()
    torch.set_num_threads(config.threads)
    run, recipe = Run(config.run), load_recipe(config.run / "recipe.yaml")
    after = load_trained(config.run, model="rl", name="after RL", calibrated=False)
    before = load_trained(config.run, model="sft", name="before", calibrated=False)
    model = fine_tune_on(config, run, recipe, after.dataset, after.catalog)
    control = LanguageModelRecommender(model, after.catalog, before.prompt, name="fine-tuned on")
    for split in ("valid", "test"):
        protocol = replace(recipe.evaluate, split=split, max_examples=config.max_examples, cutoffs=(10, 50))
        recommenders = [after.recommender, control, before.recommender]
        figures = evaluate_all(recommenders, after.dataset, protocol, run.path(f"control/{split}"), recipe.seed)
        print(f"\n| {split} | HR@10 | NDCG@10 | HR@50 | NDCG@10 of after RL less this |\n|---|---|---|---|---|")
        for name, entry in figures["recommenders"].items():
            values = [f"{entry['metrics'][label]['value']:.4f}" for label in ("HR@10", "NDCG@10", "HR@50")]
            pairs = [each for each in figures["comparisons"] if each["b"] == name and each["metric"] == "NDCG@10"]
            difference = "".join(f"{p['difference']:+.4f} [{p['low']:+.4f}, {p['high']:+.4f}]" for p in pairs)
            print(f"| {name} | {' | '.join(values)} | {difference} |")


if __name__ == "__main__":
    main(tyro.cli(Config))
