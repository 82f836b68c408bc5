"""Rewards of the user's own, by import path; knows nothing of ours.

A module that Python finds (in the current folder, in a folder of PYTHONPATH, or installed), ``shop/rewards.py`` say:

    def margin(answers: Answers) -> Tensor:
        profit = load_profit().to(answers.leaf.device)       # one number an item index
        return torch.where(answers.is_candidate, profit[answers.item.clamp(min=0)], 0.0)

and in the recipe, beside ours: ``rewards: {rule: 1.0, "shop.rewards:margin": 0.1}``. The files that a function and its
module were read from are inputs of the stage; what they import is not.
"""

import contextlib
import difflib
import importlib
import inspect
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itemic.core.errors import ConfigError
from itemic.core.files import file_hash
from itemic.train.rl.answers import Answers
from itemic.train.rl.rewards.sources import Reward

__all__ = ["check_custom_rewards", "custom_files", "is_import_path", "load_reward"]

log = logging.getLogger("itemic")

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")

_executed: dict[Path, str] = {}
"""Hash of each file when its module was imported here: one that was edited since is imported again."""


def is_import_path(name: str) -> bool:
    """Returns whether a name is spelled ``package.module:function``; nothing is imported."""
    return _IMPORT_PATH.fullmatch(name) is not None


def check_custom_rewards(names: Iterable[str]) -> None:
    """Imports the user's among the rewards, so that what is wrong with them is known before hours of training.

    Raises:
        ConfigError: as ``load_reward`` does.
    """
    for name in names:
        if is_import_path(name):
            load_reward(name)


def custom_files(names: Iterable[str]) -> dict[str, Path]:
    """Returns the files that the user's rewards are written in, by ``reward <name>``; warns of one that has none.

    A function that its module imports from elsewhere has two: its own is ``reward <name>, function``.

    Raises:
        ConfigError: as ``load_reward`` does.
    """
    files: dict[str, Path] = {}
    for name in filter(is_import_path, names):
        function, module = _load(name)
        found = {"": _file(module), ", function": _file(_home(function, module))}
        if None in found.values():
            log.warning("reward %r has no source file: after a change of it say --force, for nothing else tells", name)
        if found[""] == found[", function"]:
            del found[", function"]
        files |= {f"reward {name}{which}": path for which, path in found.items() if path is not None}
    return files


def load_reward(name: str) -> Reward:
    """Returns the function at ``package.module:function``, whose every result is checked before it is used.

    What it returns for the answers must be a tensor of their shape (B, G), on their device and finite wherever there
    is a candidate; a type other than float32 is converted. The check of the values waits for the device once a call.
    The current folder is searched first, but only while the module is imported.

    Raises:
        ConfigError: if there is no such module or function, or it does not take the answers as its only argument.
    """
    function, _ = _load(name)
    return partial(_checked, function=function, name=name)


def _load(name: str) -> tuple[Callable[[Answers], Any], ModuleType]:
    """Returns the function as its files now have it, and the module that has it."""
    module_name, function_name = name.split(":")
    module = _import(partial(importlib.import_module, module_name), name)
    home = _home(_attribute(module, function_name, name), module)
    sources = {path: file_hash(path) for each in (home, module) if (path := _file(each)) is not None}
    if any(_executed.get(path, digest) != digest for path, digest in sources.items()):
        for each in (home, module) if home is not module else (module,):
            module = _import(partial(importlib.reload, each), name)
    _executed.update(sources)
    function = _attribute(module, function_name, name)
    if not callable(function):
        raise ConfigError(f"reward {name!r}: expected a function, found a {type(function).__name__}")
    if not _takes_one_argument(function):
        raise ConfigError(
            f"reward {name!r}: expected a function of the answers alone, found {function_name}"
            f"{inspect.signature(function)}"
        )
    return function, module


def _home(function: Any, module: ModuleType) -> ModuleType:
    """Returns the module that a function is written in, which may be another one than has it."""
    return sys.modules.get(str(getattr(inspect.unwrap(function), "__module__", "")), module)


def _file(module: ModuleType) -> Path | None:
    with contextlib.suppress(TypeError):  # of what is built in
        found = inspect.getsourcefile(module)
        return Path(found) if found and Path(found).is_file() else None
    return None


@contextlib.contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _import(find: Callable[[], ModuleType], name: str) -> ModuleType:
    module_name = name.partition(":")[0]
    importlib.invalidate_caches()
    try:
        with _current_folder_first():
            return find()
    except ModuleNotFoundError as error:
        is_theirs = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        problem = (
            f"no such module in {Path.cwd()}; start there where it lies, put its folder into PYTHONPATH, or install it"
            if is_theirs
            else str(error)
        )
        raise ConfigError(f"reward {name!r}: cannot import {module_name}: {problem}") from error
    except Exception as error:  # whatever a user's module raises while it is imported
        raise ConfigError(f"reward {name!r}: cannot import {module_name}: {_told(error)}") from error


def _attribute(module: Any, function_name: str, name: str) -> Any:
    if hasattr(module, function_name):
        return getattr(module, function_name)
    public = [each for each in vars(module) if not each.startswith("_")]
    nearest = difflib.get_close_matches(function_name, public, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ConfigError(f"reward {name!r}: {module.__name__} has no {function_name}{hint}")


def _takes_one_argument(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # builtins may hide their signature; the first call will tell
        return True
    return True


def _checked(answers: Answers, function: Callable[[Answers], Any], name: str) -> Float[Tensor, "B G"]:
    try:
        rewards = function(answers)
    except Exception as error:  # whatever a user's function raises
        raise ConfigError(f"reward {name!r}: raised {_told(error)}") from error
    expected = f"expected a tensor of shape {tuple(answers.leaf.shape)} on {answers.leaf.device}"
    if not isinstance(rewards, Tensor):
        raise ConfigError(f"reward {name!r}: {expected}, found a {type(rewards).__name__}")
    if rewards.shape != answers.leaf.shape or rewards.device != answers.leaf.device or rewards.is_complex():
        found = f"{rewards.dtype} of shape {tuple(rewards.shape)} on {rewards.device}"
        raise ConfigError(f"reward {name!r}: {expected}, found {found}")
    judged = torch.where(answers.is_candidate, rewards.detach().float(), 0.0)
    if not judged.isfinite().all():
        question, candidate = (~judged.isfinite()).nonzero()[0].tolist()
        raise ConfigError(
            f"reward {name!r}: expected finite numbers, found {judged[question, candidate].item()} for question "
            f"{question}, candidate {candidate} of the batch"
        )
    return judged


def _told(error: Exception) -> str:
    """Returns an error's kind and message, and the last line that it came through in a reward's file."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}"  # it says where
    frames = traceback.extract_tb(error.__traceback__)
    frame = ([each for each in frames if Path(each.filename) in _executed] or frames)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
