"""The collaborative reward: what a frozen SASRec, fitted to the training part, thinks of a candidate.

A policy that follows it alone comes to please SASRec rather than users: MiniOneRec (arXiv 2510.24431) warns of reward
hacking, the reward rising while the ranking figures fall. Use it beside ``rule`` and watch both.
"""

import hashlib
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from itemic.baselines.interactions import TrainingLog
from itemic.baselines.sequential import SASRec, SASRecConfig
from itemic.core.config import config_to_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import ArtifactError
from itemic.core.files import text_hash
from itemic.train.rl.answers import Answers
from itemic.train.rl.rewards.sources import Reward, RewardSources

__all__ = ["collaborative", "fit_or_load", "make_collaborative"]

log = logging.getLogger("itemic")

_FILE = "sasrec.safetensors"


def collaborative(answers: Answers, judge: SASRec) -> Float[Tensor, "B G"]:
    """Returns SASRec's logit of each candidate as the next item after its question's history.

    The raw logit, as in the reference: shifts do not matter, since advantages are taken within a group, nor does the
    scale where they are divided by the group's deviation and this is the only reward. In a sum the scale does matter:
    on Amazon Industrial the logits of sixteen beams lie 5.4 apart from the highest to the lowest (standard deviation
    1.5), while a hit of ``rule`` gives 1; a weight of 0.1 to 0.2 keeps the hit the larger part. Questions without a
    history have 0 for every candidate; a shared leaf is judged by its first item.

    Args:
        answers: What is judged.
        judge: On the answers' device, fitted to at least the tree's items.
    """
    rows = [row for row, question in enumerate(answers.questions) if question.history]
    rewards = torch.zeros(answers.leaf.shape, device=answers.leaf.device)
    if not rows:
        return rewards
    histories = [answers.questions[row].history for row in rows]
    rewards[rows] = judge.score_items(histories, answers.item[rows].clamp(min=0)).float()
    return torch.where(answers.is_candidate, rewards, 0.0)


def make_collaborative(sources: RewardSources) -> Reward:
    """Returns the reward with a SASRec from the cache, or one fitted now and put there.

    Raises:
        ArtifactError: if the catalog has items that the dataset lacks.
        DataError: if there are no training interactions.
    """
    if sources.num_items > sources.dataset.num_items:
        raise ArtifactError(
            f"the catalog has {sources.num_items} items, the dataset that SASRec is fitted to "
            f"{sources.dataset.num_items}; the collaborative reward cannot judge the others"
        )
    config = SASRecConfig(device=str(sources.device))
    return partial(collaborative, judge=fit_or_load(sources.dataset, sources.cache, seed=sources.seed, config=config))


def fit_or_load(dataset: Dataset, folder: Path, *, seed: int, config: SASRecConfig) -> SASRec:
    """Returns a SASRec fitted to the training part alone: valid, by which RL is stopped, does not choose its epoch.

    Args:
        dataset: Valid and test are not looked at.
        folder: Where it is kept; one that lies there is used if training part, seed and config are the same.
        seed: Of the fit.
        config: Network, training and device.

    Raises:
        DataError: if there are no training interactions.
    """
    path, made_from = folder / _FILE, _fingerprint(dataset, seed, config)
    if path.exists():
        try:
            return SASRec.load(path, made_from, device=config.device)
        except ArtifactError as error:
            log.info("%s; fitting SASRec anew", error)
    model = SASRec.fit(replace(dataset, valid=dataset.valid.clear()), seed=seed, config=config)
    model.save(path, made_from)
    return model


def _fingerprint(dataset: Dataset, seed: int, config: SASRecConfig) -> str:
    """Returns the hash of all that decides the fit but the machine it runs on."""
    training = TrainingLog.from_dataset(dataset)
    digest = hashlib.sha256(training.user.tobytes())
    digest.update(training.item.tobytes())
    settings = sorted((key, str(value)) for key, value in config_to_mapping(config).items() if key != "device")
    flat = [part for pair in settings for part in pair]
    return text_hash(digest.hexdigest(), str(training.num_items), str(seed), *flat)
