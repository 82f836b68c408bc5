"""The prepare stage: a source's log and catalogue become the run's dataset.

Reads top to bottom: read, set bad rows aside, filter, split, check for leaks, write. Knows no source format.
"""

import datetime
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Int, Int8, Int64

from itemic.core.config import config_to_mapping
from itemic.core.dataset import COLD_COLUMN, Dataset
from itemic.core.errors import ConfigError, DataError
from itemic.core.files import write_parquet
from itemic.core.run import Run, StageResult
from itemic.data.assemble import by_user_and_time, dataset_from_examples, dataset_from_log, numbered_users
from itemic.data.cold import ColdConfig, hold_out
from itemic.data.filters import drop_duplicates, drop_repeats, in_time_window, k_core, title_rule
from itemic.data.leaks import check_leaks
from itemic.data.raw import RawLog
from itemic.data.rejects import SourceRows, check_reject_share
from itemic.data.sources import SourceConfig, read_source
from itemic.data.splits import SPLITS, leave_one_out, positions, temporal_by_share, temporal_by_time, time_order

__all__ = ["PrepareConfig", "prepare", "prepare_dataset"]

log = logging.getLogger("itemic")

_CAME_LATER = {"cold": None, "rebuild_histories": False}
"""Fields that earlier runs know nothing of, as they leave things as those runs have them."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How a source becomes a dataset; the filters apply in the order in which they stand here."""

    source: SourceConfig
    """What to read; its key ``format`` says which reader."""
    behaviours: tuple[str, ...] = ()
    """Behaviours to keep; none keeps all."""
    min_rating: float | None = None
    """Least rating to keep; None keeps all, as sequential benchmarks do."""
    start: str = ""
    """First instant to keep, an ISO date or time in UTC; "" for no limit."""
    end: str = ""
    """First instant no longer kept, an ISO date or time in UTC; "" for no limit."""
    clean_titles: bool = True
    """Whether HTML entities in titles become characters, as in MiniOneRec, and line breaks and tabs blanks."""
    min_title_words: int = 1
    """Least number of words in a title."""
    max_title_words: int = 0
    """Most words in a title, 0 for no limit (MiniOneRec takes 20)."""
    forbidden_in_title: tuple[str, ...] = ()
    """Texts that no title may contain (MiniOneRec forbids ``<span id``)."""
    drop_duplicates: bool = True
    """Whether rows that agree in user, item, time, behaviour and rating count as one event recorded again."""
    keep_repeats: bool = True
    """Whether a user's later interactions with an item stay, as in MiniOneRec; else only the first does."""
    min_user_interactions: int = 1
    """k-core on users; 1 keeps all, since given splits allow no filter (the papers take 5)."""
    min_item_interactions: int = 1
    """k-core on items; 0 also keeps items that nobody touched (the papers take 5)."""
    split: Literal["leave_one_out", "temporal", "given"] = "leave_one_out"
    """Each user's last two, all users' latest targets, or what the source fixes."""
    valid_share: float = 0.1
    """Share of the targets in valid under a temporal split without dates (MiniOneRec: 0.1)."""
    test_share: float = 0.1
    """Share of the targets in test under a temporal split without dates (MiniOneRec: 0.1)."""
    valid_start: str = ""
    """First instant of valid under a temporal split by dates."""
    test_start: str = ""
    """First instant of test under a temporal split by dates."""
    max_history: int = 10
    """Most items in an example's history (MiniOneRec: 10)."""
    rebuild_histories: bool = False
    """Given split: takes each history from the log, all that precedes the target, where the source cut it short. The
    targets stay, but figures are of another protocol than the source's."""
    max_reject_share: float = 0.01
    """Share of a file's rows that may be unusable before the run stops."""
    cold: ColdConfig | None = None
    """Holds some of the items that valid and test ask for out of all that teaches; left out by default."""

    def __post_init__(self) -> None:
        for name in ("min_user_interactions", "max_history"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("min_item_interactions", "min_title_words", "max_title_words"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, found {getattr(self, name)}")
        for name in ("valid_share", "test_share", "max_reject_share"):
            _require(0 <= getattr(self, name) <= 1, f"{name} must lie in [0, 1], found {getattr(self, name)}")
        _check_times(self)
        _check_split(self)


def prepare(config: PrepareConfig, run: Run, *, seed: int, force: bool = False) -> StageResult:
    """Returns the stage's result after writing ``dataset/`` and ``rejects.parquet`` to the run folder.

    Where the source publishes semantic IDs, they go to ``given_sids.parquet`` (item_index, codes); where it does not,
    a file of that name that another source left is removed.

    Raises:
        DataError: if the source cannot be read, has too many bad rows or keeps nothing.
    """
    files = config.source.files()
    outputs = ["dataset", "rejects.parquet", *(["given_sids.parquet"] if "index" in files else [])]

    def work() -> Mapping[str, Any]:
        raw = read_source(config.source)
        dataset, rejects = _prepare_raw(raw, config, seed)
        write_parquet(run.path("rejects.parquet"), rejects)
        if raw.given_codes is None:
            run.path("given_sids.parquet").unlink(missing_ok=True)
        else:
            write_parquet(run.path("given_sids.parquet"), _given_sids(dataset.items, raw.given_codes))
        dataset.save(run.path("dataset"))
        counts: Mapping[str, Any] = dataset.info["counts"]
        return {**counts, "rejects": rejects.height}

    return run.stage(
        "prepare",
        work,
        config=_recorded(config, run),
        inputs=files,
        outputs=outputs,
        seed=seed,
        force=force,
    )


def prepare_dataset(config: PrepareConfig, *, seed: int = 0) -> tuple[Dataset, pl.DataFrame]:
    """Returns the dataset and the rows that were set aside (REJECT_SCHEMA), writing nothing.

    Args:
        config: How.
        seed: Draws the items of the cold-start protocol; nothing else is random.

    Raises:
        DataError: if the source cannot be read, has too many bad rows or keeps nothing.
    """
    return _prepare_raw(read_source(config.source), config, seed)


def _prepare_raw(raw: RawLog, config: PrepareConfig, seed: int) -> tuple[Dataset, pl.DataFrame]:
    raw = raw.with_known_items()
    if config.clean_titles:
        raw = raw.with_clean_titles()
    rejects = pl.concat([part.rejects for part in raw.parts])
    check_reject_share(rejects, {part.file: part.num_read for part in raw.parts}, config.max_reject_share)
    if config.split == "given":
        dataset, steps = (
            dataset_from_examples(raw, config.max_history, rebuild_histories=config.rebuild_histories),
            dict[str, int](),
        )
    else:
        dataset, steps = _split_log(raw, config)
    if dataset.interactions.is_empty():
        raise DataError(f"no interaction is left; left after each step: {steps}")
    dataset = _with_cold_items(dataset, config, seed)
    checks = check_leaks(dataset, split=config.split)
    if config.split == "given" and not config.rebuild_histories:
        _warn_of_given_histories(raw, config.max_history, checks["histories_not_in_log"])
    info = {
        "split": config.split,
        "keeps_repeats": bool(dataset.interactions.select("user_id", "item_index").is_duplicated().any()),
        "max_history": config.max_history,
        **({"rebuilt_histories": True} if config.rebuild_histories else {}),
        "counts": _counts(dataset),
        "checks": checks,
        "steps": steps,
        "rejects": dict(rejects.group_by("reason").len().sort("reason").iter_rows()),
        "config": _written(config),
    }
    return replace(dataset, info={**info, **dataset.info}), rejects


def _written(config: PrepareConfig) -> dict[str, Any]:
    """Returns the config as plain values, without a protocol that is left out: earlier datasets stay up to date."""
    return {name: value for name, value in config_to_mapping(config).items() if name != "cold" or value is not None}


def _recorded(config: PrepareConfig, run: Run) -> Mapping[str, Any]:
    """Returns the config as the run's manifest has it where that says the same; else as it is written now.

    A field that came after the run was prepared, and is left as it was before there was one, does no stage again.
    """
    known: Mapping[str, Any] = run.manifest()["stages"].get("prepare", {}).get("config", {})
    return known if {**_CAME_LATER, **known} == config_to_mapping(config) else _written(config)


def _with_cold_items(dataset: Dataset, config: PrepareConfig, seed: int) -> Dataset:
    if COLD_COLUMN in dataset.items.columns:
        raise DataError(
            f"the catalogue has a column {COLD_COLUMN}, the name of the cold-start protocol's own; rename it"
        )
    return dataset if config.cold is None else hold_out(dataset, config.cold, seed=seed)


def _split_log(raw: RawLog, config: PrepareConfig) -> tuple[Dataset, dict[str, int]]:
    """Returns the dataset of a filtered log, and how many interactions were left after each step."""
    if raw.interactions is None:
        raise DataError(f"split {config.split!r}: the source has no log, only examples of its own: take split: given")
    _check_log_has(raw.interactions, config)
    users, events = _numbered(raw.interactions.rows, raw.items.rows)
    has_title = _has_allowed_title(raw.items.rows, config)
    steps = {"read": events.height}
    for name, apply in _filters(config, has_title).items():
        events = apply(events)
        steps[name] = events.height
        if events.is_empty():
            raise DataError(f"no interaction is left after {name}; left after each step: {steps}")
    is_used = np.bincount(events["item"].to_numpy(), minlength=len(has_title)) > 0
    stays = has_title if config.min_item_interactions == 0 else is_used
    events = events.with_columns(item=(np.cumsum(stays) - 1)[events["item"].to_numpy()])
    position, length = positions(events["user"].to_numpy())
    if config.split == "leave_one_out":
        split, targets = leave_one_out(position, length), np.flatnonzero(position > 0)
    else:
        time = events["time_us"].to_numpy()
        split, targets = _temporal(config, time, position), time_order(time, position)
    return dataset_from_log(raw.items.rows.filter(stays), users, events, split, targets, config.max_history), steps


def _numbered(interactions: pl.DataFrame, items: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
    """Returns user ids, and the log with numbers for users (by first appearance) and items, by user and time."""
    users, user = numbered_users(interactions["user_id"])
    index = items.select("item_id", pl.int_range(pl.len(), dtype=pl.Int64).alias("item"))
    joined = interactions.join(index, on="item_id", how="left", maintain_order="left")
    numbered = joined.select(pl.Series("user", user), "item", "time_us", "behaviour", "rating")
    return users, by_user_and_time(numbered)


def _has_allowed_title(items: pl.DataFrame, config: PrepareConfig) -> Bool[np.ndarray, "N"]:
    rule = title_rule(config.min_title_words, config.max_title_words, config.forbidden_in_title)
    return items.select(rule.alias("allowed"))["allowed"].to_numpy()


def _filters(
    config: PrepareConfig, has_title: Bool[np.ndarray, "N"]
) -> dict[str, Callable[[pl.DataFrame], pl.DataFrame]]:
    """Returns the filters that the config asks for, by name, in the order in which they apply."""
    filters: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {}
    if config.behaviours:
        filters["behaviours"] = lambda events: events.filter(pl.col("behaviour").is_in(config.behaviours))
    if config.min_rating is not None:
        filters["min_rating"] = lambda events: events.filter(pl.col("rating") >= config.min_rating)
    if config.start or config.end:
        window = in_time_window(_instant_us(config.start), _instant_us(config.end))
        filters["time_window"] = lambda events: events.filter(window)
    if not has_title.all():
        filters["title_rules"] = lambda events: events.filter(has_title[events["item"].to_numpy()])
    if config.drop_duplicates:
        filters["drop_duplicates"] = drop_duplicates
    if not config.keep_repeats:
        filters["drop_repeats"] = drop_repeats
    if max(config.min_user_interactions, config.min_item_interactions) > 1:
        filters["k_core"] = lambda events: events.filter(
            k_core(
                events["user"].to_numpy(),
                events["item"].to_numpy(),
                config.min_user_interactions,
                config.min_item_interactions,
            )
        )
    return filters


def _temporal(
    config: PrepareConfig, time: Int64[np.ndarray, "R"], position: Int[np.ndarray, "R"]
) -> Int8[np.ndarray, "R"]:
    if config.valid_start:
        valid_start, test_start = _instant_us(config.valid_start), _instant_us(config.test_start)
        assert valid_start is not None
        assert test_start is not None
        return temporal_by_time(time, position, valid_start, test_start)
    return temporal_by_share(time, position, config.valid_share, config.test_share)


def _check_log_has(interactions: SourceRows, config: PrepareConfig) -> None:
    needs = {
        "time_us": config.split == "temporal" or bool(config.start or config.end),
        "behaviour": bool(config.behaviours),
        "rating": config.min_rating is not None,
    }
    for column, is_needed in needs.items():
        if is_needed and interactions.rows[column].has_nulls():
            name = {"time_us": "timestamp"}.get(column, column)
            raise DataError(f"{interactions.file}: rows without a {name}, which the split or a filter needs")


def _warn_of_given_histories(raw: RawLog, max_history: int, num_not_in_log: int) -> None:
    lengths = (part.rows["history"].list.len() for part in raw.examples.values())
    num_cut = sum(int((length > max_history).sum()) for length in lengths)
    if num_cut:
        log.warning("prepare: %d given histories are longer than max_history %d and are cut", num_cut, max_history)
    if num_not_in_log:
        log.warning(
            "prepare: %d given histories do not continue their user's earlier examples; what learns from whole "
            "sequences sees them in the order of the files",
            num_not_in_log,
        )


def _counts(dataset: Dataset) -> dict[str, Any]:
    num_users = dataset.interactions["user_id"].n_unique()
    num_interactions = dataset.interactions.height
    num_pairs = dataset.interactions.select("user_id", "item_index").n_unique()
    return {
        "users": num_users,
        "items": dataset.num_items,
        "interactions": num_interactions,
        **{name: dataset.split(name).height for name in SPLITS},
        "density": num_pairs / (num_users * dataset.num_items),
        "mean_length": num_interactions / num_users,
    }


def _given_sids(items: pl.DataFrame, codes: pl.DataFrame) -> pl.DataFrame:
    joined = items.select("item_index", "item_id").join(codes, on="item_id", how="left", maintain_order="left")
    missing = joined.filter(pl.col("codes").is_null())
    if not missing.is_empty():
        raise DataError(f"the index has no semantic ID for {missing.height} items, first {missing['item_id'][0]!r}")
    return joined.select("item_index", "codes")


def _instant_us(text: str) -> int | None:
    """Returns an ISO date or time, in UTC where no offset is written, as microseconds since 1970; None for ""."""
    if not text:
        return None
    instant = datetime.datetime.fromisoformat(text)
    instant = instant if instant.tzinfo else instant.replace(tzinfo=datetime.UTC)
    return (instant - datetime.datetime.fromtimestamp(0, datetime.UTC)) // datetime.timedelta(microseconds=1)


def _require(is_met: bool, message: str) -> None:
    if not is_met:
        raise ConfigError(message)


def _check_times(config: PrepareConfig) -> None:
    instants = {}
    for name in ("start", "end", "valid_start", "test_start"):
        try:
            instants[name] = _instant_us(getattr(config, name))
        except ValueError:
            raise ConfigError(
                f"{name}: expected an ISO date such as 2017-10-01, found {getattr(config, name)!r}"
            ) from None
    for first, second in (("start", "end"), ("valid_start", "test_start")):
        earlier, later = instants[first], instants[second]
        if earlier is not None and later is not None and earlier >= later:
            raise ConfigError(f"{first} {getattr(config, first)} is not before {second} {getattr(config, second)}")


def _check_split(config: PrepareConfig) -> None:
    defaults = {field.name: field.default for field in fields(PrepareConfig)}
    changed = [name for name, default in defaults.items() if getattr(config, name) != default]
    of_temporal = ("valid_share", "test_share", "valid_start", "test_start")
    filters = list(defaults)[list(defaults).index("behaviours") : list(defaults).index("split")]
    if config.split != "temporal":
        idle = [name for name in of_temporal if name in changed]
        _require(not idle, f"{', '.join(idle)}: only a temporal split has it, the split is {config.split}")
    _require(
        config.split == "given" or not config.rebuild_histories,
        f"rebuild_histories: only a given split has histories of its own, the split is {config.split}",
    )
    if config.split == "given":
        idle = [name for name in filters if name in changed and name != "clean_titles"]
        _require(not idle, f"{', '.join(idle)}: a given split is kept row for row and takes no filter")
    _require(bool(config.valid_start) == bool(config.test_start), "valid_start and test_start go together")
    if config.valid_start:
        _require("valid_share" not in changed and "test_share" not in changed, "a temporal split takes shares or dates")
    shares = Fraction(str(config.valid_share)) + Fraction(str(config.test_share))
    _require(
        shares < 1, f"valid_share and test_share leave nothing to learn from: {config.valid_share}, {config.test_share}"
    )
