"""What a transfer is asked for, and the recipe of each of its runs; runs nothing."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from itemic.baselines.registry import BASELINES, BaselineRow
from itemic.core.errors import ConfigError
from itemic.evaluate.metrics.labels import parse_label
from itemic.language.augment import AugmentConfig
from itemic.language.recency import RecencyConfig
from itemic.recipe import Recipe, load_recipe
from itemic.studies.variants import model_alone
from itemic.train.rl.config import RlConfig
from itemic.train.sft import SftConfig

__all__ = [
    "MODES",
    "REFERENCES",
    "SOURCE",
    "SOURCE_TEXT",
    "SOURCE_UNION",
    "TARGET",
    "TransferConfig",
    "load_side",
    "recipe_of",
]

MODES = {
    "shared": "the source's codebooks code the target's items; the source's model as it is, zero-shot",
    "refitted": "codebooks fitted to both catalogues, source model trained on those; zero-shot",
    "text": "a source model that reads words, asked by the titles of the target's histories; zero-shot",
    "extended": "one more level fitted to the target under the shared codes, trained on the target from the source",
    "rl": "the shared mode's model after RL on the target's training part, without fine-tuning there",
    "in-domain": "the target's recipe alone: a model that never saw the source",
}
"""What each mode means, in the order of the table."""

REFERENCES = ("popularity", "covisit-knn", "text-knn")
"""Baselines of the target that stand beside the modes."""

SOURCE, TARGET = "source", "target"
SOURCE_TEXT, SOURCE_UNION = "source-text", "source-union"
"""Kinds of runs beside the modes: the source as it is, the references, sources that read words or have common codes."""

_TEXT_TASKS = ("titles_to_sid", "title_to_sid")
_TEXT_ROW_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """From where to where, by which modes, and how it is judged."""

    recipe: Path
    """YAML file of the source; its encoder, tokenization and model are used throughout."""
    target: Path
    """YAML file of the target: its data, protocol, decoding, and settings of trainings there."""
    out: Path
    """Folder of the study."""
    modes: tuple[str, ...] = ("shared", "refitted", "text", "extended", "rl")
    """Names of ``MODES``."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each mode's runs."""
    changes: tuple[str, ...] = ()
    """Changes to the recipes: ``source.data=FOLDER`` to the source's, ``target.data=FOLDER`` to the target's, others to
    both."""
    both: bool = False
    """Whether the other direction is run too, target to source."""
    metric: str = "NDCG@10"
    """Ranking metric with its cut-off."""
    split: Literal["valid", "test"] = "valid"
    """Examples of the target that judge."""
    against: Literal["popularity", "covisit-knn", "text-knn"] = "text-knn"
    """Reference that every mode is compared with; text-knn needs no training either."""
    extra_codes: int = 16
    """Codes of the level that ``extended`` adds."""
    words: int = 4000
    """Words that a source model from scratch learns for ``text``, where its recipe has none."""
    confidence: float = 0.95
    """Probability mass inside an interval."""

    def __post_init__(self) -> None:
        parse_label(self.metric)
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes or len(set(self.modes)) < len(self.modes):
            found = repr(unknown[0]) if unknown else self.modes
            raise ConfigError(f"modes: expected some of {', '.join(MODES)}, each once; found {found}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds: expected one or more different numbers, found {self.seeds}")
        if self.extra_codes < 2 or self.words < 1:
            raise ConfigError("extra_codes must be at least 2, and words at least 1")


def load_side(config: TransferConfig, path: Path, side: str) -> Recipe:
    """Returns the recipe of the source or the target, with its changes and the study's protocol.

    Raises:
        ConfigError: if it trains no model, or its codes cannot be carried over.
    """
    own = [text.removeprefix(f"{side}.") for text in config.changes if text.startswith(f"{side}.")]
    common = [text for text in config.changes if not text.startswith((f"{SOURCE}.", f"{TARGET}."))]
    recipe = load_recipe(path, (*common, *own))
    if recipe.sft is None:
        raise ConfigError(f"{path}: a transfer needs a model; the recipe has sft: null")
    if recipe.tokenize.source != "embeddings" or recipe.tokenize.needs_collaborative:
        raise ConfigError(
            f"{path}: tokenize must quantize text embeddings alone: given SIDs have no codebook for other items, and "
            "vectors from one shop's log say nothing of another's items"
        )
    if recipe.evaluate.max_examples and len(config.seeds) > 1:
        raise ConfigError(f"{path}: evaluate.max_examples must be 0 with several seeds; each would draw other examples")
    cutoff = parse_label(config.metric)[1]
    cutoffs = tuple(sorted({*recipe.evaluate.cutoffs, cutoff}))
    recipe = model_alone(recipe, split=config.split, cutoffs=cutoffs, before_rl=False)
    return replace(recipe, collaborative=None)


def recipe_of(kind: str, config: TransferConfig, source: Recipe, target: Recipe) -> Recipe:
    """Returns the recipe of a run: of a mode, the references, or a source; without its seed and folder."""
    assert source.sft is not None
    assert target.sft is not None
    if kind == "in-domain":
        return replace(target, align=None, rl=None)
    if kind in (SOURCE, SOURCE_UNION, SOURCE_TEXT):
        own = _reading_words(source.sft, config.words) if kind == SOURCE_TEXT else source.sft
        return replace(source, sft=own, rl=None, align=None if kind == SOURCE_TEXT else source.align)
    rows = {name: BaselineRow(settings=BASELINES[name].settings(), name=name) for name in REFERENCES}
    embed = target.embed if source.embed.vectors else source.embed
    sft_config = replace(source.sft, training=target.sft.training, max_history=source.sft.max_history)
    return replace(
        target,
        embed=embed,
        tokenize=source.tokenize,
        align=None,
        sft=None if kind == TARGET else _reading_words(sft_config, config.words) if kind == "text" else sft_config,
        rl=(target.rl or source.rl or RlConfig()) if kind == "rl" else None,
        baselines=rows if kind == TARGET else {},
    )


def _reading_words(config: SftConfig, words: int) -> SftConfig:
    """Returns the training of a model that reads titles: with words, where it has none, and with tasks of titles."""
    tasks = {**config.tasks, **{task: config.tasks.get(task, 1.0) for task in _TEXT_TASKS}}
    if config.prompt_mode == "chat":
        return replace(config, tasks=tasks)
    row_tokens = max(config.row_tokens, _TEXT_ROW_TOKENS)
    plain = {"augment": AugmentConfig(), "recency": RecencyConfig()}
    return replace(config, words=words, tasks=tasks, row_tokens=row_tokens, **plain)  # type: ignore[arg-type]
