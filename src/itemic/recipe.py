"""A recipe: one YAML file that holds every stage's config; knows what the stages are called, not what they do."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from itemic.baselines.item_vectors import CollaborativeConfig
from itemic.baselines.registry import BASELINES, BaselineRow, check_kind
from itemic.baselines.search import combinations
from itemic.baselines.stage import check_row_names
from itemic.core.config import config_from_mapping, read_yaml
from itemic.core.errors import ConfigError
from itemic.core.trained_model import ModelChoice
from itemic.data.prepare import PrepareConfig
from itemic.decode.title_config import Answer, TitleConfig
from itemic.decode.walk import Normalization
from itemic.embed.embed import EmbedConfig
from itemic.evaluate.compare.published import check_published
from itemic.evaluate.protocol import EvaluateConfig
from itemic.evaluate.report.focus import BEFORE_RL, OWN_NAME
from itemic.evaluate.report.report import ReportConfig
from itemic.hybrid.config import DENSE_HEAD, LANGUAGE_MODEL, BlendConfig
from itemic.language.tasks import NEXT_TITLE_TASK
from itemic.model.precision import Precision
from itemic.sid.tokenize import TokenizeConfig
from itemic.train.rl.config import RlConfig
from itemic.train.rl.questions import check_question_tasks
from itemic.train.sft import SftConfig

__all__ = ["ComparisonConfig", "Recipe", "load_recipe", "override", "with_run"]

_REWARDS = "rl.rewards."


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig(EvaluateConfig):
    """The protocol, and how the trained model is decoded."""

    model: ModelChoice = "last"
    """Which of the run's models: ``last``, which is the one after RL where there is one, ``sft`` or ``rl``. A recipe
    without ``sft`` has none: its baselines are evaluated alone."""
    published: str = ""
    """Method whose published figure stands beside the model's row, by its name in the list of published figures."""
    benchmark: str = ""
    """Name of the data set and protocol in the list of published figures, ``amazon18-industrial`` say."""
    before_rl: bool = True
    """Whether the model before RL is evaluated too, beside the one after it."""
    answer: Answer = "sid"
    """What the model answers with: ``sid``; ``title-grounded`` (BIGRec) and ``title-tree`` (D3) ask for the next item's
    title, which ``sft.tasks: {titles_to_title: 1}`` teaches."""
    titles: TitleConfig = field(default_factory=TitleConfig)
    """How answers in titles are read."""
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
    sft: SftConfig | None = field(default_factory=SftConfig)
    """The model's training; ``sft: null`` leaves it out, for a table of baselines alone."""
    rl: RlConfig | None = None
    """Training after ``sft``, on the model's own answers; left out by default."""
    baselines: Mapping[str, BaselineRow] = field(default_factory=lambda: dict(_default_rows()))
    """Recommenders fitted to the same training part, a row of the table each; ``[popularity, sasrec]`` is short for
    rows of these kinds with their defaults, and ``{}`` leaves the model alone."""
    blend: BlendConfig | None = None
    """The model, rows of the baselines and further runs' models weighed into one recommender, which is evaluated as a
    row of its own; left out by default."""
    evaluate: ComparisonConfig = field(default_factory=ComparisonConfig)
    """Figures of the model and of every baseline."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """The page."""

    def __post_init__(self) -> None:
        if self.tokenize.needs_collaborative and self.collaborative is None:
            raise ConfigError(
                "tokenize: joint vectors and a quantizer with a collaborative_weight need vectors from the log; add "
                "the section collaborative, {kind: svd} say"
            )
        _check_rows(self.baselines, self.seed)
        _check_answer(self.evaluate, self.baselines)
        _check_titles_are_taught(self)
        if self.blend is not None:
            _check_blend(self.blend, self.baselines, has_model=self.sft is not None)
        _check_names(self)
        _check_training(self)

    @property
    def table_names(self) -> tuple[str, ...]:
        """Names in the table of what the recipe evaluates: the blend, the model, the baselines."""
        models: tuple[str, ...] = () if self.sft is None else (OWN_NAME,)
        if self.rl is not None and self.evaluate.before_rl and self.evaluate.model != "sft":
            models += (BEFORE_RL,)
        return (*([] if self.blend is None else [self.blend.name]), *models, *map(_row_name, self.baselines.values()))


def _row_name(row: BaselineRow) -> str:
    return row.name or BASELINES[row.settings.kind].name


def _check_rows(rows: Mapping[str, BaselineRow], seed: int) -> None:
    check_row_names(rows)
    for key, row in rows.items():
        if key in (LANGUAGE_MODEL, DENSE_HEAD):
            raise ConfigError(f"baselines.{key}: a blend's members call something else {key}; name the row otherwise")
        try:
            combinations(row, seed=seed)
        except ConfigError as error:
            raise ConfigError(f"baselines.{key}.{error}") from None


def _check_names(recipe: Recipe) -> None:
    """Checks what stands in the table: its rows' names, and whose published figures are asked for."""
    rows, blend = recipe.baselines, recipe.blend
    places: dict[str, str] = {} if recipe.sft is None else dict.fromkeys((OWN_NAME, BEFORE_RL), "the model")
    named = [] if blend is None else [(blend.name, "blend")]
    named += [(_row_name(row), f"baselines.{key}") for key, row in rows.items()]
    for name, place in named:
        if name in places:
            raise ConfigError(f"{place}: its name in the table, {name!r}, is that of {places[name]} too; give a name")
        places[name] = place
    published = [recipe.evaluate.published, *(row.published for row in rows.values())]
    check_published(recipe.evaluate.benchmark, published if blend is None else [*published, blend.published])


def _check_answer(config: ComparisonConfig, rows: Mapping[str, BaselineRow]) -> None:
    assistant = config.titles.assistant
    if assistant and config.answer != "title-tree":
        raise ConfigError(f"evaluate.titles.assistant: needs answer: title-tree, found {config.answer}")
    if assistant and assistant not in rows:
        raise ConfigError(
            f"evaluate.titles.assistant: {assistant!r} is no row of baselines; there are {', '.join(rows)}"
        )
    if assistant:
        _check_scores_every_item("evaluate.titles.assistant", assistant, rows)


def _check_titles_are_taught(recipe: Recipe) -> None:
    """Says before the training what the evaluation would say after it."""
    answer = recipe.evaluate.answer
    if answer == "sid":
        return
    if recipe.sft is None:
        raise ConfigError(f"evaluate.answer: {answer} is asked of the model, which sft: null leaves out")
    taught = [task for stage in (recipe.align, recipe.sft, recipe.rl) if stage is not None for task in stage.tasks]
    if NEXT_TITLE_TASK not in taught:
        raise ConfigError(
            f"evaluate.answer: {answer} needs a model that was taught to name the next item; put {NEXT_TITLE_TASK} "
            f"among sft.tasks (with words or a backbone), found {', '.join(taught)}"
        )


def _check_blend(blend: BlendConfig, rows: Mapping[str, BaselineRow], *, has_model: bool) -> None:
    unknown = [name for name in blend.rows if name not in rows]
    if unknown:
        raise ConfigError(
            f"blend.members: {unknown[0]!r} is no row of baselines; there are model, dense-head, {', '.join(rows)}"
        )
    for name in blend.rows:
        _check_scores_every_item("blend.members", name, rows)
    if blend.needs_model and not has_model:
        raise ConfigError("blend.members names the model, which sft: null leaves out")


def _check_scores_every_item(place: str, name: str, rows: Mapping[str, BaselineRow]) -> None:
    kind = rows[name].settings.kind
    if not BASELINES[kind].scores_every_item:
        raise ConfigError(f"{place}: {name!r} is of kind {kind}, which does not score every item; take sasrec, say")


def _check_training(recipe: Recipe) -> None:
    align, sft, rl = recipe.align, recipe.sft, recipe.rl
    if sft is None:
        if align is not None or rl is not None:
            raise ConfigError(f"{'align' if align else 'rl'} needs the section sft")
        return
    if align is not None and align.backbone != sft.backbone:
        raise ConfigError(f"align.backbone {align.backbone!r} is not sft.backbone {sft.backbone!r}")
    if rl is not None:
        _check_rl_tasks(rl, sft.prompt_mode)


_DEFAULT_ROWS = ("popularity", "repeat-last", "item-knn", "covisit-knn", "ease", "sasrec")


def _default_rows() -> Mapping[str, BaselineRow]:
    return {kind: BaselineRow(settings=BASELINES[kind].settings()) for kind in _DEFAULT_ROWS}


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
    _expand_rows(values, path)  # before changes, which may reach into a row, and after, which may name new ones
    for change in overrides:
        override(values, change)
    _expand_rows(values, path)
    data = values.pop("data", None)
    return config_from_mapping(Recipe, _with_data(values, data, path), source=str(path))


def _expand_rows(values: dict[str, Any], path: Path) -> None:
    """Writes the section baselines in full, in place: ``[sasrec]`` and ``{sasrec: {}}`` name the kind alone."""
    if "baselines" not in values:
        return
    rows = values["baselines"] or {}
    if isinstance(rows, list):
        rows = {kind: {} for kind in rows}
    if not isinstance(rows, dict):
        raise ConfigError(f"{path}: baselines: expected rows by their names, or a list of kinds, found {rows!r}")
    full = {}
    for key, row in rows.items():
        row = {} if row is None else row
        if not isinstance(row, dict):
            raise ConfigError(f"{path}: baselines.{key}: expected a mapping, found {row!r}")
        settings = row.get("settings") or {}
        if isinstance(settings, dict):
            hint = "" if "kind" in settings else ". A row of another name says settings: {kind: ...}"
            settings = {"kind": key, **settings}
            try:
                check_kind(str(settings["kind"]))
            except ConfigError as error:
                raise ConfigError(f"{path}: baselines.{key}: {error}{hint}") from None
        full[str(key)] = {**row, "settings": settings}
    values["baselines"] = full


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
