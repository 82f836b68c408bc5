"""Rewards of the user's own, by import path; knows nothing of ours.

A module that Python finds (installed, or its folder in PYTHONPATH), ``shop/rewards.py`` say:

    def margin(answers: Answers) -> Tensor:
        profit = load_profit().to(answers.leaf.device)       # one number an item index
        return torch.where(answers.is_candidate, profit[answers.item.clamp(min=0)], 0.0)

and in the recipe, beside ours: ``rewards: {rule: 1.0, "shop.rewards:margin": 0.1}``.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itemic.core.errors import ConfigError
from itemic.train.rl.answers import Answers
from itemic.train.rl.rewards.sources import Reward

__all__ = ["is_import_path", "load_reward"]

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_import_path(name: str) -> bool:
    """Returns whether a name is spelled ``package.module:function``; nothing is imported."""
    return _IMPORT_PATH.fullmatch(name) is not None


def load_reward(name: str) -> Reward:
    """Returns the function at ``package.module:function``, whose every result is checked before it is used.

    What it returns for the answers must be a tensor of their shape (B, G), on their device and finite wherever there
    is a candidate; a type other than float32 is converted. The check of the values waits for the device once a call.

    Raises:
        ConfigError: if there is no such module or function, or it does not take the answers as its only argument.
    """
    module_name, function_name = name.split(":")
    function = _attribute(_module(module_name, name), function_name, name)
    if not callable(function):
        raise ConfigError(f"reward {name!r}: expected a function, found a {type(function).__name__}")
    if not _takes_one_argument(function):
        raise ConfigError(
            f"reward {name!r}: expected a function of the answers alone, found {function_name}"
            f"{inspect.signature(function)}"
        )
    return partial(_checked, function=function, name=name)


def _module(module_name: str, name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        is_theirs = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        problem = "no such module; install it, or put its folder into PYTHONPATH" if is_theirs else str(error)
        raise ConfigError(f"reward {name!r}: cannot import {module_name}: {problem}") from error
    except Exception as error:  # whatever a user's module raises while it is imported
        raise ConfigError(f"reward {name!r}: cannot import {module_name}: {error!r}") from error


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
    rewards = function(answers)
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
