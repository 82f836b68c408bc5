"""The stage rl: a model that was fine-tuned answers, is judged, and learns; writes ``rl/model`` and ``rl/rl.jsonl``.

The stage reads top to bottom: load data, catalog and model, choose what trains, make what asks, answers and judges, run
the loop, save a plain Hugging Face folder.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from itemic.core.allocator import tune_allocator
from itemic.core.dataset import Dataset
from itemic.core.device import pick_device
from itemic.core.errors import ConfigError
from itemic.core.run import Run, StageResult
from itemic.core.trained_model import find_model
from itemic.decode.trie import Trie
from itemic.language.prompts import Renderer
from itemic.model.adapters import merge_adapters
from itemic.model.backbone import checkpoint_activations
from itemic.model.dropout import remove_dropout
from itemic.model.sid_model import SidModel
from itemic.sid.catalog import Catalog
from itemic.train.loop import TrainResult, train
from itemic.train.parameters import choose_parameters
from itemic.train.rl.config import RlConfig
from itemic.train.rl.figures import RunningFigures
from itemic.train.rl.judge import Judge
from itemic.train.rl.learner import RlLearner
from itemic.train.rl.policy_loss import PolicyLoss, objective_of
from itemic.train.rl.questions import QuestionBank, answer_trees, check_question_tasks
from itemic.train.rl.reference import make_reference
from itemic.train.rl.rewards.custom import custom_files
from itemic.train.rl.rewards.registry import make_rewards
from itemic.train.rl.rewards.sources import RewardSources
from itemic.train.stage import TrainingPlace, run_training_stage
from itemic.train.start import load_start
from itemic.train.validation import make_ranking

__all__ = ["rl"]

log = logging.getLogger("itemic")


def rl(config: RlConfig, run: Run, *, seed: int, force: bool = False) -> StageResult:
    """Trains the run's fine-tuned model by reinforcement and writes ``rl/model`` and ``rl/rl.jsonl``.

    The model kept is the one with the best validation score, the one that it began with included.

    Args:
        config: What is asked, answered and judged, and how.
        run: Holds dataset, catalog and model.
        seed: The run's seed.
        force: Trains even where nothing changed.

    Raises:
        ArtifactError: if the dataset, the catalog or the model is missing, or a file that a reward reads.
        CatalogError: if the model speaks another catalog.
        ConfigError: if a task, reward or setting cannot be honoured.
    """
    if config.unread:
        log.warning("rl: with these settings nothing reads %s", ", ".join(config.unread))
    inputs = {
        "dataset": run.require("dataset", "prepare"),
        "catalog": run.require("catalog", "tokenize"),
        "start": run.require("model", "sft"),
    }
    if config.objective == "grpo" and "semantic" in config.rewards:
        inputs["embeddings"] = run.require("embeddings.safetensors", "embed")
    if config.objective == "grpo":
        inputs |= custom_files(config.rewards)

    learned = find_model(run, "sft").max_history
    if config.max_history > learned:
        raise ConfigError(
            f"max_history: expected at most the {learned} that the model was fine-tuned with, found "
            f"{config.max_history}; leave it out, or run sft with more"
        )
    max_history = config.max_history or learned

    def train_model(place: TrainingPlace) -> tuple[SidModel, TrainResult]:
        return _train(replace(config, max_history=max_history), inputs, place, run.path("rl/rewards"))

    return run_training_stage("rl", config, run, inputs, train_model, folder="rl/", seed=seed, force=force)


def _train(
    config: RlConfig, inputs: Mapping[str, Path], place: TrainingPlace, reward_cache: Path
) -> tuple[SidModel, TrainResult]:
    tune_allocator()
    dataset, catalog = Dataset.load(inputs["dataset"]), Catalog.load(inputs["catalog"])
    catalog.check_fits(dataset.items["item_id"].to_list())
    model = load_start(inputs["start"], catalog, pick_device(config.training.device), stage="sft", tasks=config.tasks)
    choose_parameters(model, config.parameters, config.lora, place.seed)
    remove_dropout(model.network)
    if config.training.gradient_checkpointing:
        checkpoint_activations(model.network)
    excludes_history = not dataset.keeps_repeats if config.exclude_history is None else config.exclude_history
    sources = RewardSources(
        dataset=dataset,
        vectors=inputs.get("embeddings"),
        num_items=catalog.num_items,
        seed=place.seed,
        device=model.device,
        cache=reward_cache,
        excludes_history=excludes_history,
    )
    learner = _make_learner(config, dataset, catalog, model, sources)
    result = train(learner, config.training, **place.settings())
    if result.best_step == 0:
        log.warning("rl: no validation was better than the one before the first step; that model is kept")
    model.network = merge_adapters(model.network).eval()
    return model, result


def _make_learner(
    config: RlConfig, dataset: Dataset, catalog: Catalog, model: SidModel, sources: RewardSources
) -> RlLearner:
    check_question_tasks(config.tasks, model.prompt_mode)
    renderer = Renderer(model.tokenizer, model.spelling, catalog.codes, model.prompt_mode)
    trie = Trie.from_catalog(catalog).to(model.device)
    trees = {kind: tree.to(model.device) for kind, tree in answer_trees(trie, dataset, renderer, config.tasks).items()}
    bank = QuestionBank(
        dataset,
        renderer,
        config.tasks,
        trees,
        max_history=config.max_history,
        newest_share=config.newest_share,
    )
    figures = RunningFigures()
    reference = make_reference(model, config.reference) if config.needs_reference else None
    judge = Judge(
        model,
        config,
        rewards=make_rewards(config.rewards, sources) if config.objective == "grpo" else {},
        reference=reference,
        excludes_history=sources.excludes_history,
        figures=figures,
        seed=sources.seed,
    )
    return RlLearner(
        PolicyLoss(model, len(bank.task_names), objective_of(config), config.rollout.temperature, record=figures.add),
        bank,
        judge,
        config,
        figures=figures,
        reference=reference,
        ranking=_ranking(config, sources, catalog, model, renderer),
        seed=sources.seed,
    )


def _ranking(
    config: RlConfig, sources: RewardSources, catalog: Catalog, model: SidModel, renderer: Renderer
) -> Callable[[], dict[str, float]]:
    if sources.dataset.split("valid").is_empty():
        log.warning("rl: no validation split, so no guard on its score: the model after the last step is kept")
        return dict
    return make_ranking(
        sources.dataset,
        catalog,
        model,
        renderer,
        max_history=config.max_history,
        max_examples=config.max_valid_examples,
        num_beams=config.valid_beams,
        cutoffs=(10, 50),
        labels=("NDCG@10", "HR@10", "HR@50"),
        seed=sources.seed,
        exclude_history=sources.excludes_history,
    )
