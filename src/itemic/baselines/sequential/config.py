"""Settings that sequential baselines share: those of every one, of training on windows, of training on examples."""

from dataclasses import dataclass
from typing import Literal

from itemic.core.errors import ConfigError

__all__ = ["ExamplesConfig", "SequentialConfig", "WindowsConfig"]


@dataclass(frozen=True, kw_only=True)
class SequentialConfig:
    """What every sequential baseline is asked."""

    kind: str = ""
    """Name of the baseline in recipes; each has its own."""
    hidden_size: int = 128
    """Width D of the states and item embeddings."""
    dropout: float = 0.3
    """Share of units left out while training."""
    max_length: int = 50
    """Items that are read at once: a longer history is cut to its end."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    max_epochs: int = 15
    """Passes over the training part, at most."""
    patience: int = 5
    """Epochs without a better valid NDCG@10 after which training stops."""
    max_valid_examples: int = 10_000
    """Valid examples that choose the epoch: a random subset of this many; 0 takes all."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, mps."""

    def __post_init__(self) -> None:
        self.check_counts("hidden_size", "max_length", "max_epochs", "patience")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, found {self.dropout}")
        if self.learning_rate <= 0 or self.max_valid_examples < 0:
            raise ConfigError(f"expected a learning rate above 0 and max_valid_examples of at least 0, found {self}")

    def check_counts(self, *names: str) -> None:
        """Raises ConfigError where one of these settings is below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class WindowsConfig(SequentialConfig):
    """A stack of attention over windows, scored at every position with cross-entropy over the whole catalogue.

    The defaults were chosen on the valid split of MovieLens-100k, for SASRec.
    """

    num_layers: int = 2
    """Blocks; SASRec's paper has as many."""
    num_heads: int = 2
    """Attention heads."""
    batch_tokens: int = 1024
    """Targets of a step, about; a step holds this many times N logits, three times over, at 4 bytes."""
    weight_decay: float = 0.0
    """Decoupled decay of the weights (AdamW)."""
    warmup_steps: int = 50
    """Steps in which the rate rises to its peak; from there it falls linearly to zero at the last epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("num_layers", "num_heads", "batch_tokens")
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise ConfigError(f"expected a decay and a warm-up of at least 0, found {self}")


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig(SequentialConfig):
    """Training on one history and one target at a time, at a constant rate.

    The defaults are those of the baselines that MiniOneRec (arXiv 2510.24431) publishes figures of.
    """

    hidden_size: int = 32
    """Width D of the states and item embeddings."""
    max_length: int = 10
    """Items that are read at once: a longer history is cut to its end."""
    max_epochs: int = 500
    """Passes over the training part, at most; patience ends it long before."""
    patience: int = 20
    """Epochs without a better valid NDCG@10 after which training stops."""
    loss: Literal["bce", "softmax"] = "bce"
    """``bce``: each target against one random other item; ``softmax``: cross-entropy over the whole catalogue."""
    batch_size: int = 1024
    """Examples a step."""
    l2: float = 1e-5
    """Weight of half the squared norm of all weights; Adam sees it in the gradient."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("batch_size")
        if self.l2 < 0:
            raise ConfigError(f"l2 must be at least 0, found {self.l2}")
