"""How a model that was taught to name the next item is read as a recommender; knows no model and no data."""

from dataclasses import dataclass
from typing import Literal

from itemic.core.errors import ConfigError

__all__ = ["Answer", "TitleConfig"]

Answer = Literal["sid", "title-grounded", "title-tree"]
"""What a language model answers with: semantic IDs; titles that are written freely and grounded in the catalogue
(BIGRec); or titles of the catalogue, searched in the tree of all of them (D3)."""


@dataclass(frozen=True, kw_only=True)
class TitleConfig:
    """Settings of answers in titles."""

    assistant: str = ""
    """``title-tree``: row of the baselines whose scores decide beside the model, one that scores every item, SASRec
    say; empty decodes by the model alone."""
    model_weight: float = 0.5
    """``title-tree`` with an assistant: α, the language model's part, to be chosen on valid."""
    popularity_power: float = 0.0
    """``title-grounded``: γ, how much nearer popular items are drawn, to be chosen on valid; 0 does not."""
    max_new_tokens: int = 64
    """``title-grounded``: longest title that is written; 30 words, to which titles are clipped, seldom have more."""

    def __post_init__(self) -> None:
        if not 0 <= self.model_weight <= 1:
            raise ConfigError(f"model_weight {self.model_weight}: expected 0 to 1")
        if not self.popularity_power >= 0:
            raise ConfigError(f"popularity_power {self.popularity_power}: expected at least 0")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens {self.max_new_tokens}: expected at least 1")
