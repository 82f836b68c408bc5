"""SASRec with the full softmax: the sequential baseline that a generative model is measured against.

Trained on every position of every user's training sequence, one row a window, with cross-entropy over the whole
catalogue, which third parties found far stronger than the paper's one negative a positive (Klenitskiy and Vasilev,
2023). The valid split chooses the epoch and nothing else.
"""

from dataclasses import dataclass
from typing import Any, Literal

from itemic.baselines.sequential.config import WindowsConfig
from itemic.baselines.sequential.recommender import SequentialRecommender
from itemic.baselines.sequential.sasrec_network import SasrecNetwork

__all__ = ["SASRec", "SASRecConfig"]


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(WindowsConfig):
    """Network and training. The defaults were chosen on the valid split of MovieLens-100k."""

    kind: Literal["sasrec"] = "sasrec"


class SASRec(SequentialRecommender):
    """The recommender around a ``SasrecNetwork``."""

    name = "SASRec"
    settings = SASRecConfig

    @classmethod
    def shape_of(cls, config: SASRecConfig, num_items: int) -> dict[str, Any]:
        """Returns the arguments of ``SasrecNetwork``."""
        return {
            "num_items": num_items,
            "max_length": config.max_length,
            "hidden_size": config.hidden_size,
            "num_layers": config.num_layers,
            "num_heads": config.num_heads,
            "dropout": config.dropout,
        }

    @classmethod
    def make_network(cls, **shape: Any) -> SasrecNetwork:
        """Returns an untrained network."""
        return SasrecNetwork(**shape)
