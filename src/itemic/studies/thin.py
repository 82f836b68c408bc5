"""A dataset with the training sequences of some of its users: the data axis of a scaling law; knows no run."""

import math
from dataclasses import replace

import numpy as np
import polars as pl

from itemic.core.dataset import Dataset
from itemic.core.errors import ConfigError
from itemic.core.seeds import derive_rng

__all__ = ["thin_dataset"]


def thin_dataset(dataset: Dataset, share: float, *, seed: int) -> Dataset:
    """Returns the dataset with the training sequences of a random share of the users that have one.

    Under one seed a smaller share's users are among a larger one's. Items, the log, valid and test stay: interactions
    that are no longer lessons have no part (null), as those of users without examples.

    Args:
        dataset: The whole.
        share: Of the users, above 0 and at most 1; at least one user stays.
        seed: Orders the users.

    Raises:
        ConfigError: if the share lies outside.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share {share}: expected above 0 and at most 1")
    is_lesson = pl.col("split") == "train"
    users = dataset.interactions.filter(is_lesson)["user_id"].unique().sort()
    order = derive_rng(seed, "study", "thin").permutation(len(users))
    num_kept = max(1, math.ceil(round(share * len(users), 6)))
    kept = users.gather(np.sort(order[:num_kept]))
    stays = ~is_lesson | pl.col("user_id").is_in(kept.implode())
    return replace(
        dataset,
        interactions=dataset.interactions.with_columns(split=pl.when(stays).then(pl.col("split"))),
        train=dataset.train.filter(pl.col("user_id").is_in(kept.implode())),
        info={**dataset.info, "thinned": {"share": share, "seed": seed, "users": num_kept}},
    )
