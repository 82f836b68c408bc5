"""A short search over a baseline's settings: every combination is fitted, valid decides. Test is never looked at."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pydantic

from itemic.baselines.registry import BaselineRow, BaselineSettings
from itemic.core.config import config_to_mapping
from itemic.core.errors import ConfigError
from itemic.core.seeds import derive_rng

__all__ = ["best_settings", "combinations", "write_settings"]

_SETTINGS: Any = pydantic.TypeAdapter(BaselineSettings)


def combinations(row: BaselineRow, *, seed: int) -> list[Any]:
    """Returns the settings to try, the row's own first; at most ``max_trials``, drawn by the seed.

    Raises:
        ConfigError: if a searched key is none of the settings, or a value does not go with it.
    """
    base = config_to_mapping(row.settings)
    grid = [dict(zip(row.search, values, strict=True)) for values in itertools.product(*row.search.values())]
    options = [row.settings]
    for changes in grid:
        settings = _changed(base, changes)
        if settings not in options:
            options.append(settings)
    if len(options) > row.max_trials:
        drawn = derive_rng(seed, "search").permutation(len(options) - 1)[: row.max_trials - 1]
        options = [options[0], *(options[1 + index] for index in sorted(drawn.tolist()))]
    return options


def best_settings(
    options: Sequence[Any],
    score: Callable[[Any], float],
    known: Mapping[int, float],
    keep: Callable[[int, float], None],
) -> Any:
    """Returns the settings with the highest score, the earlier of equals.

    Args:
        options: Settings to try.
        score: Figure on valid of a recommender with some settings, higher is better.
        known: Scores that an earlier, killed search has found, by the places of their options.
        keep: Called with place and score of each option that is tried now.
    """
    best, best_score = options[0], -float("inf")
    for place, settings in enumerate(options):
        value = known.get(place)
        if value is None:
            value = score(settings)
            keep(place, value)
        if value > best_score:
            best, best_score = settings, value
    return best


def write_settings(settings: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Returns the searched ones of plain settings in words, ``decay=0.5, max_distance=2`` say.

    Args:
        settings: All of them.
        keys: Which to write; those within settings with dots.
    """
    written = []
    for key in keys:
        value: Any = settings
        for part in key.split("."):
            value = value[part]
        written.append(f"{key}={value}")
    return ", ".join(written)


def _changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in changes.items():
        inside: Any = values
        *parents, last = key.split(".")
        for parent in parents:
            inside = inside.get(parent) if isinstance(inside, dict) else None
        if not isinstance(inside, dict) or last not in inside:
            raise ConfigError(f"search.{key}: {base['kind']} has no such setting; there are {', '.join(sorted(base))}")
        inside[last] = value
    try:
        return _SETTINGS.validate_python(values)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"search: {changes}: {problem['msg']}") from None
