"""Settings of TIGER."""

from dataclasses import dataclass
from typing import Literal

from itemic.core.errors import ConfigError
from itemic.core.schedule import Schedule
from itemic.decode.recommender import check_search_settings
from itemic.decode.walk import Normalization

__all__ = ["TIGERConfig"]


@dataclass(frozen=True, kw_only=True)
class TIGERConfig:
    """Network, training and search. The network's defaults are the paper's."""

    kind: Literal["tiger"] = "tiger"
    hidden_size: int = 128
    """Width D of the states and token embeddings."""
    num_encoder_layers: int = 4
    """Blocks that read the history."""
    num_decoder_layers: int = 4
    """Blocks that write the semantic ID."""
    num_heads: int = 6
    """Attention heads."""
    head_size: int = 64
    """Width of a head; heads times width need not be D."""
    feed_forward_size: int = 1024
    """Hidden units of a block's feed-forward part."""
    dropout: float = 0.1
    """Share of units left out of embeddings and of each part's output while training."""
    max_history: int = 20
    """Items of a history that are read, the newest."""
    batch_size: int = 256
    """Examples of a step; the paper's."""
    learning_rate: float = 1e-3
    """Peak of the schedule, for AdamW; the paper's 0.01 is for Adafactor."""
    schedule: Schedule = "linear"
    """How the rate falls to zero at ``max_epochs``; the paper's, 1 / sqrt(step), needs no end, but many more steps."""
    warmup: float = 0.05
    """Share of the training over which the rate rises to its peak."""
    weight_decay: float = 0.0
    """Decoupled decay of the weights."""
    label_smoothing: float = 0.0
    """Share of a target's probability that is spread over the codes of its level."""
    max_epochs: int = 50
    """Passes over the training examples."""
    patience: int = 5
    """Epochs without a better valid NDCG@10 after which training stops."""
    max_valid_examples: int = 1000
    """Valid examples that choose the epoch: a random subset of this many; 0 takes all."""
    num_beams: int = 50
    """Beam width; a list longer than that raises it to its own length."""
    normalize: Normalization = "legal"
    """What a code's probability is over: ``legal``, the codes that continue a semantic ID of the catalog; ``full``,
    all codes of its level, as in training."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "num_encoder_layers", "num_decoder_layers", "num_heads", "head_size")
        for name in (*sizes, "feed_forward_size", "max_history", "batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("dropout", "warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, found {getattr(self, name)}")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.max_valid_examples < 0:
            raise ConfigError(
                "expected a learning rate above 0, a decay and a number of valid examples of at least 0, found "
                f"{self.learning_rate}, {self.weight_decay} and {self.max_valid_examples}"
            )
        check_search_settings(self.num_beams, self.batch_size, self.normalize)
