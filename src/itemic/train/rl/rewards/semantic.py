"""The semantic reward: how like the target a candidate is by the items' text vectors."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from itemic.core.errors import ArtifactError
from itemic.sid.vectors import read_embeddings
from itemic.train.rl.answers import Answers
from itemic.train.rl.rewards.sources import Reward, RewardSources

__all__ = ["make_semantic", "semantic"]


def semantic(answers: Answers, unit_vectors: Float[Tensor, "N D"]) -> Float[Tensor, "B G"]:
    """Returns the cosine of a candidate's and a target's vector, in [-1, 1]; of the nearest target.

    A hit has 1, whichever item of a shared leaf it stands for; any other candidate on one is judged by its first item.

    Args:
        answers: What is judged.
        unit_vectors: One vector of length 1 an item (or 0, of which nothing is known), on the answers' device.
    """
    target = answers.target
    cosine = unit_vectors[answers.item.clamp(min=0)] @ unit_vectors[target.clamp(min=0)].mT
    best = cosine.masked_fill((target < 0)[:, None], -torch.inf).amax(dim=-1).clamp(-1, 1)
    return torch.where(answers.is_candidate, torch.where(answers.is_hit, 1.0, best), 0.0)


def make_semantic(sources: RewardSources) -> Reward:
    """Returns the reward with the run's item vectors, held as float32 on the device (4 N D bytes).

    Raises:
        ArtifactError: if there are none, or they are damaged or other items'.
    """
    if sources.vectors is None or not sources.vectors.exists():
        place = sources.vectors or "embeddings.safetensors"
        raise ArtifactError(f"{place}: missing, but the semantic reward needs item vectors; run itemic embed")
    vectors = read_embeddings(sources.vectors, sources.dataset.items["item_id"].to_list())
    if len(vectors) != sources.num_items:
        raise ArtifactError(
            f"{sources.vectors}: vectors of {len(vectors)} items, the catalog has {sources.num_items}; run itemic "
            "embed again"
        )
    held = torch.from_numpy(np.array(vectors, dtype=np.float32)).to(sources.device)
    return partial(semantic, unit_vectors=functional.normalize(held, dim=1))
