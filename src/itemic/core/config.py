"""Frozen dataclasses from plain mappings and back; knows nothing of any particular config.

Unknown keys, wrong types and missing keys are reported with the full key path and, for an unknown key, the nearest
known one, so that a typing mistake in a recipe never turns into a silently ignored setting.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from itemic.core.errors import ConfigError

__all__ = ["config_from_mapping", "config_to_mapping", "read_yaml", "tagged_types"]

C = TypeVar("C")

_TAG_FIELDS = ("format", "kind")


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file.

    Raises:
        ConfigError: if the file is missing, is not YAML, or its top level is no mapping.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping at the top level, found {type(value).__name__}")
    return value


def config_from_mapping(config_type: type[C], values: Mapping[str, Any], *, source: str = "config") -> C:
    """Returns ``config_type(**values)``, validated field by field with pydantic.

    Args:
        config_type: A dataclass; nested dataclasses, unions, ``Literal``, paths and tuples are followed.
        values: Plain values as YAML gives them.
        source: What the error message calls the input, a file name say.

    Raises:
        ConfigError: naming the key (``sft.learning_rate``), what was expected and what was found.
    """
    _refuse_unknown_keys(config_type, values, source, "")
    try:
        return pydantic.TypeAdapter(config_type).validate_python(dict(values))
    except pydantic.ValidationError as error:
        problems = "; ".join(_describe(problem) for problem in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


def config_to_mapping(config: Any) -> dict[str, Any]:
    """Returns a dataclass as JSON-ready plain values (paths as strings, tuples as lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=_plain))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"a config holds a {type(value).__name__}, which JSON cannot write")


def tagged_types(config_type: Any) -> dict[str, dict[str, Any]]:
    """Returns for each field that may be one of several dataclasses what these are, by their ``kind`` or ``format``."""
    found = {}
    for name, hint in typing.get_type_hints(config_type).items():
        types_by_tag = {tag: option for option in _options(hint) for tag in _tag(option).values()}
        if len(types_by_tag) > 1:
            found[name] = types_by_tag
    return found


def _refuse_unknown_keys(config_type: Any, values: Any, source: str, prefix: str) -> None:
    if not isinstance(values, Mapping):
        return
    hints = typing.get_type_hints(config_type)
    known = [field.name for field in dataclasses.fields(config_type)]
    for key, value in values.items():
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            hint = f"; did you mean {prefix}{nearest[0]}?" if nearest else ""
            raise ConfigError(f"{source}: unknown key {prefix}{key}{hint}")
        _refuse_bare_tag(hints[key], value, source, f"{prefix}{key}")
        nested = _nested_config(hints[key], value)
        if nested is not None:
            _refuse_unknown_keys(nested, value, source, f"{prefix}{key}.")
        member = _mapped_config(hints[key])
        if member is not None and isinstance(value, Mapping):
            for name, inside in value.items():
                _refuse_unknown_keys(member, inside, source, f"{prefix}{key}.{name}.")


def _refuse_bare_tag(hint: Any, value: Any, source: str, key: str) -> None:
    """Raises where one of several dataclasses is wanted and the value is no mapping, its bare ``kind`` say.

    Pydantic's own message speaks of objects to extract fields from, and does not name the key that chooses.
    """
    options = [option for option in _options(hint) if dataclasses.is_dataclass(option)]
    tags = sorted({str(tag) for option in options for tag in _tag(option).values()})
    if len(options) < 2 or not tags or value is None or isinstance(value, Mapping) or dataclasses.is_dataclass(value):
        return
    name = next(iter(_tag(options[0])))
    remedy = f"write {{{name}: {value}}}" if value in tags else f"its key {name} is one of {', '.join(tags)}"
    raise ConfigError(f"{source}: {key}: expected a mapping, found {value!r}; {remedy}")


def _nested_config(hint: Any, value: Any) -> Any:
    """Returns the dataclass that a value is meant for: the only one, or of several the one of the same tag."""
    nested = [option for option in _options(hint) if dataclasses.is_dataclass(option)]
    if len(nested) > 1 and isinstance(value, Mapping):
        nested = [option for option in nested if _tag(option) == {key: value.get(key) for key in _tag(option)}]
    return nested[0] if len(nested) == 1 else None


def _mapped_config(hint: Any) -> Any:
    """Returns the dataclass of a mapping's values, None where it is of anything else."""
    arguments = typing.get_args(hint) if typing.get_origin(hint) in (Mapping, dict) else ()
    return arguments[1] if arguments and dataclasses.is_dataclass(arguments[1]) else None


def _tag(config_type: Any) -> dict[str, Any]:
    """Returns the field that tells the members of a union apart, with its value."""
    return {key: getattr(config_type, key) for key in _TAG_FIELDS if hasattr(config_type, key)}


def _options(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [option for argument in typing.get_args(hint) for option in _options(argument)]
    return [hint]


def _describe(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"missing key {key}"
    if problem["type"] == "union_tag_not_found":
        return f"missing key {key}.{problem['ctx']['discriminator'].strip(chr(39))}, which says what {key} is"
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: {message}, found {problem['input']!r}"
