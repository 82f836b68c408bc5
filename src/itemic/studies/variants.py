"""Variants of a recipe: which keys take which values, one at a time or all with all; runs nothing."""

import itertools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from itemic.core.config import config_to_mapping
from itemic.core.errors import ConfigError
from itemic.core.files import text_hash
from itemic.decode.title_config import TitleConfig
from itemic.recipe import Recipe, load_recipe

__all__ = ["BASE", "Variant", "find_variants", "folder_name", "model_alone", "parse_vary", "with_protocol"]

log = logging.getLogger("itemic")

BASE = "base"
"""Name of the recipe as it stands."""

_LONGEST_NAME = 80


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A recipe with some keys changed."""

    name: str
    """``base``, or its changes: ``sft.decoder.dropout=0.2``."""
    changes: Mapping[str, Any]
    """Values by dotted key; empty for the base."""
    recipe: Recipe
    """The recipe, changed."""
    also: tuple[str, ...] = ()
    """Names of further changes that give this very recipe, which is run once."""

    @property
    def folder(self) -> str:
        """Name of its run folder, without the seed."""
        return folder_name(self.name)


def folder_name(name: str) -> str:
    """Returns a name that a file system takes: other characters become hyphens, and a hash tells such names apart."""
    plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.")
    return plain if plain == name and len(name) <= _LONGEST_NAME else f"{plain[:_LONGEST_NAME]}-{text_hash(name)[:6]}"


def parse_vary(change: str) -> tuple[str, list[Any]]:
    """Returns key and values of ``sft.decoder.dropout=0.0,0.1,0.2``, the values as in a YAML list.

    Raises:
        ConfigError: if there is no key or no value.
    """
    key, equals, text = change.partition("=")
    try:
        values = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        values = None
    if not equals or not key or not values:
        raise ConfigError(f"{change!r}: expected key=value,value,..., sft.decoder.dropout=0.0,0.1 say")
    return key, list(values)


def find_variants(
    path: Path, changes: Sequence[str], vary: Mapping[str, Sequence[Any]], *, is_grid: bool
) -> list[Variant]:
    """Returns the base and its variants, each recipe once: a variant that changes nothing is the base.

    Args:
        path: The recipe's file.
        changes: Made to every variant, the base included: ``sft.training.epochs=3``.
        vary: Values of each dotted key.
        is_grid: Every value with every other key's values; otherwise one key at a time is changed.

    Raises:
        ConfigError: if there is nothing to vary, or a variant is no recipe: before anything runs.
    """
    if not vary or not all(vary.values()):
        raise ConfigError("nothing to vary: give keys with their values, sft.decoder.dropout=0.0,0.1 say")
    variants = [Variant(name=BASE, changes={}, recipe=load_recipe(path, tuple(changes)))]
    seen = [_settings(variants[0].recipe)]
    for chosen in _combinations(vary, is_grid=is_grid):
        written = {key: json.dumps(value, ensure_ascii=False) for key, value in chosen.items()}
        name = ", ".join(f"{key}={_plain(value)}" for key, value in chosen.items())
        try:
            recipe = load_recipe(path, (*changes, *(f"{key}={text}" for key, text in written.items())))
        except ConfigError as error:
            raise ConfigError(f"variant {name}: {error}") from None
        settings = _settings(recipe)
        if settings in seen:
            place = seen.index(settings)
            same = variants[place]
            variants[place] = replace(same, also=(*same.also, name))
            log.info("%s: the same recipe as %s, which is run once", name, same.name)
            continue
        seen.append(settings)
        variants.append(Variant(name=name, changes=chosen, recipe=recipe))
    return variants


def with_protocol(recipe: Recipe, **settings: Any) -> Recipe:
    """Returns the recipe with other settings of ``evaluate``."""
    return replace(recipe, evaluate=replace(recipe.evaluate, **settings))


def model_alone(recipe: Recipe, **settings: Any) -> Recipe:
    """Returns the recipe with its last model as the only recommender, which answers with semantic IDs.

    Args:
        recipe: Whatever else it fits, and whoever helps the model answer, is left out.
        settings: Others of ``evaluate``.
    """
    recipe = with_protocol(recipe, model="last", answer="sid", titles=TitleConfig(), **settings)
    return replace(recipe, baselines={}, blend=None)


def _combinations(vary: Mapping[str, Sequence[Any]], *, is_grid: bool) -> list[dict[str, Any]]:
    if is_grid:
        return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]
    return [{key: value} for key, values in vary.items() for value in values]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in config_to_mapping(recipe).items() if key != "run"}
