"""The rewards by the names that recipes use, made and summed; knows no formula.

In a recipe: ``rewards: {rule: 1.0, rank: 1.0}``, the hybrid. A reward of weight 0 is computed for the log
and adds nothing.
"""

import difflib
import logging
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from itemic.core.errors import ConfigError
from itemic.train.rl.answers import Answers
from itemic.train.rl.rewards.collaborative import make_collaborative
from itemic.train.rl.rewards.custom import is_import_path, load_reward
from itemic.train.rl.rewards.matches import prefix, rule, well_formed, well_formed_and_unseen
from itemic.train.rl.rewards.ranks import rank, rank_if_hit
from itemic.train.rl.rewards.semantic import make_semantic
from itemic.train.rl.rewards.sources import Reward, RewardSources

__all__ = ["REWARDS", "check_rewards", "make_rewards", "sum_rewards"]

log = logging.getLogger("itemic")

REWARDS: Mapping[str, Callable[[RewardSources], Reward]] = MappingProxyType(
    {
        "rule": lambda sources: rule,
        "rank": lambda sources: rank,
        "rank-if-hit": lambda sources: rank_if_hit,
        "prefix": lambda sources: prefix,
        "semantic": make_semantic,
        "collaborative": make_collaborative,
        "format": lambda sources: well_formed_and_unseen if sources.excludes_history else well_formed,
    }
)
"""What makes each reward, by its name in recipes."""


def check_rewards(weights: Mapping[str, float]) -> None:
    """Refuses names and weights that cannot be honoured; reads no file and imports no user's module.

    Raises:
        ConfigError: if there is no reward of a name, a weight is not finite, or none is other than 0.
    """
    for name, weight in weights.items():
        if name not in REWARDS and not is_import_path(name):
            raise ConfigError(
                f"no reward {name!r}; did you mean {_nearest(name)}? There are {', '.join(REWARDS)}, and your own as "
                "package.module:function"
            )
        if not math.isfinite(weight):
            raise ConfigError(f"reward {name!r}: expected a finite weight, found {weight}")
    if not any(weights.values()):
        raise ConfigError(f"rewards: expected at least one weight other than 0, found {dict(weights)}")


def _nearest(name: str) -> str:
    """Returns the spelling of ours that is most like a name; an import path with a colon where it is one with dots."""
    own = ":".join(name.rsplit(".", 1))
    return own if is_import_path(own) else difflib.get_close_matches(name, list(REWARDS), n=1, cutoff=0.0)[0]


def make_rewards(weights: Mapping[str, float], sources: RewardSources) -> dict[str, Reward]:
    """Returns the rewards that have a weight, by name.

    Args:
        weights: Weight of each reward in the sum; below 0 penalises, 0 only logs.
        sources: What they may read. Where several processes train, make them in the first one before the others, so
            that only one fits what goes to the cache.

    Raises:
        ArtifactError: if a file that a reward needs is missing or does not fit.
        ConfigError: if a name or weight cannot be honoured, or a user's reward cannot be imported.
    """
    check_rewards(weights)
    log.info("rewards: %s", ", ".join(f"{name} {weight:g}" for name, weight in weights.items()))
    ranked = [name for name in ("rank", "rank-if-hit") if weights.get(name)]
    if ranked and "rule" not in weights:
        log.warning(
            "rewards: %s without rule: a hit gains no more than not to be a miss. Rewards that are named replace the "
            "default ones; rule: 1.0 beside it is the hybrid",
            ranked[0],
        )
    if weights.get("collaborative", 0) > 0 and weights.get("rule", 0) <= 0:
        log.warning(
            "rewards: collaborative without rule invites reward hacking: the policy learns to please SASRec. The log "
            "says when the collaborative reward rises while the rule reward (rule: 0 only logs it) or the validation "
            "score falls; rule: 1.0 beside it ties the policy to the data"
        )
    own = {name: load_reward(name) for name in weights if name not in REWARDS}  # first: SASRec takes minutes to fit
    return {name: own[name] if name in own else REWARDS[name](sources) for name in weights}


@torch.no_grad()
def sum_rewards(
    rewards: Mapping[str, Reward], weights: Mapping[str, float], answers: Answers
) -> tuple[Float[Tensor, "B G"], dict[str, Float[Tensor, "B G"]]]:
    """Returns the weighted sum of the rewards, and each of them unweighted; 0 where there is no candidate.

    Args:
        rewards: From ``make_rewards``.
        weights: Weight of each of them.
        answers: What is judged.
    """
    assert rewards.keys() == weights.keys()
    components = {
        name: torch.where(answers.is_candidate, reward(answers).float(), 0.0) for name, reward in rewards.items()
    }
    total = torch.zeros(answers.leaf.shape, device=answers.leaf.device)
    for name, component in components.items():
        total += weights[name] * component
    return total, components
