"""A recipe: one YAML file that holds every stage's config; knows what the stages are called, not what they do."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from itemic.baselines.item_vectors import CollaborativeConfig
from itemic.core.config import config_from_mapping, read_yaml
from itemic.core.errors import ConfigError
from itemic.core.trained_model import ModelChoice
from itemic.data.prepare import PrepareConfig
from itemic.decode.walk import Normalization
from itemic.embed.embed import EmbedConfig
from itemic.evaluate.protocol import EvaluateConfig
from itemic.evaluate.report.report import ReportConfig
from itemic.model.precision import Precision
from itemic.sid.tokenize import TokenizeConfig
from itemic.train.rl.config import RlConfig
from itemic.train.rl.questions import check_question_tasks
from itemic.train.sft import SftConfig

__all__ = ["ComparisonConfig", "Recipe", "load_recipe", "override", "with_run"]

_REWARDS = "rl.rewards."


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig(EvaluateConfig):
    """The protocol, how the trained model is decoded, and what it is compared with."""

    baselines: tuple[str, ...] = ("popularity", "repeat-last", "item-knn", "covisit-knn", "ease", "sasrec")
    """Recommenders fitted to the same training part; none evaluates the model alone."""
    model: ModelChoice = "last"
    """Which of the run's models: ``last``, which is the one after RL where there is one, ``sft`` or ``rl``."""
    before_rl: bool = True
    """Whether the model before RL is evaluated too, beside the one after it."""
    num_beams: int = 50
    """Beam width; 50 as in MiniOneRec's evaluation."""
    normalize: Normalization = "legal"
    """What scores are normalised over: the children in the trie, or the whole vocabulary (MiniOneRec)."""
    decode_batch_size: int = 16
    """Prompts decoded at once."""
    device: str = "auto"
    """Where the language model is decoded: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:<n>``."""
    dtype: Precision = "float32"
    """Number format of the language model's layers. Exact on every device unless asked for otherwise, so that figures
    compare across machines; ``bfloat16`` is several times faster on CUDA, ``auto`` takes it there."""
    allow_catalog_change: bool = False
    """Whether another catalog than the model was trained on will do, one with items added or retired since, say."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything from a source to a report."""

    prepare: PrepareConfig
    """From the source to the dataset."""
    run: str = "runs/itemic"
    """Folder of the run, relative to where the command is started."""
    seed: int = 0
    """From which every random stream is derived."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    """From item texts to vectors."""
    collaborative: CollaborativeConfig | None = None
    """From training interactions to one vector an item, for ``tokenize.vectors.kind: joint``; left out by default."""
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    """From vectors to semantic IDs."""
    align: SftConfig | None = None
    """Training before ``sft``, of the SID rows alone say; left out by default."""
    sft: SftConfig = field(default_factory=SftConfig)
    """The model's training."""
    rl: RlConfig | None = None
    """Training after ``sft``, on the model's own answers; left out by default."""
    evaluate: ComparisonConfig = field(default_factory=ComparisonConfig)
    """Figures, beside the baselines'."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """The page."""

    def __post_init__(self) -> None:
        if self.tokenize.needs_collaborative and self.collaborative is None:
            raise ConfigError(
                "tokenize: joint vectors and a quantizer with a collaborative_weight need vectors from the log; add "
                "the section collaborative, {kind: svd} say"
            )
        if self.align is not None and self.align.backbone != self.sft.backbone:
            raise ConfigError(f"align.backbone {self.align.backbone!r} is not sft.backbone {self.sft.backbone!r}")
        if self.rl is not None:
            _check_rl_tasks(self.rl, "chat" if self.sft.backbone else "sid-only")


def _check_rl_tasks(config: RlConfig, mode: str) -> None:
    """Says before hours of training what the stage would say after them."""
    try:
        check_question_tasks(config.tasks, mode)
    except ConfigError as error:
        raise ConfigError(f"rl.{error}") from None


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Returns the recipe in a YAML file.

    The key ``data``, a folder, stands for ``{data}`` in every text of the recipe.

    Args:
        path: The file.
        overrides: Changes such as ``sft.training.epochs=3``, values written as in YAML.

    Raises:
        ConfigError: naming file and key where something is unknown, missing or of the wrong type.
    """
    values = read_yaml(path)
    for change in overrides:
        override(values, change)
    data = values.pop("data", None)
    return config_from_mapping(Recipe, _with_data(values, data, path), source=str(path))


def _with_data(value: Any, data: Any, path: Path) -> Any:
    """Returns the values with ``{data}`` in texts replaced by the folder of the recipe's key ``data``."""
    if isinstance(value, dict):
        return {key: _with_data(inside, data, path) for key, inside in value.items()}
    if isinstance(value, list):
        return [_with_data(inside, data, path) for inside in value]
    if not isinstance(value, str) or "{data}" not in value:
        return value
    if not isinstance(data, str):
        raise ConfigError(f"{path}: say where the files are: data=FOLDER on the command line, or the key data")
    return value.replace("{data}", data)


def override(values: dict[str, Any], change: str) -> None:
    """Sets ``a.b.c=value`` in nested mappings, in place; the value is read as YAML.

    Whatever follows ``rl.rewards.`` is one key, for names of rewards may have dots: ``rl.rewards.shop.own:margin=0.1``.

    Raises:
        ConfigError: if the change has no ``=``, or leads through something that is no mapping.
    """
    key, equals, text = change.partition("=")
    if not equals:
        raise ConfigError(f"{change!r}: expected key=value, sft.training.epochs=3 say")
    *parents, last = _keys(key)
    inside = values
    for parent in parents:
        if inside.get(parent) is None:
            inside[parent] = {}
        inside = inside[parent]
        if not isinstance(inside, dict):
            raise ConfigError(f"{key}: {parent} holds a value, not further keys")
    try:
        inside[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{key}: {text!r} is not a YAML value") from None


def _keys(dotted: str) -> list[str]:
    reward = dotted.removeprefix(_REWARDS)
    return dotted.split(".") if reward == dotted else [*_REWARDS.split(".")[:-1], reward]


def with_run(recipe: Recipe, run: Path | None) -> Recipe:
    """Returns the recipe with another run folder, where one is given."""
    return recipe if run is None else replace(recipe, run=run.as_posix())
