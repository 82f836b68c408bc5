"""What decoding asks of a language model: hidden states under a mask, and some rows of its head.

Knows no model library; ``model.sid_model.SidModel`` is the implementation, tests bring small fakes.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.language.spelling import SidTokens

__all__ = ["CatalogPolicy", "Policy"]


@runtime_checkable
class Policy(Protocol):
    """A causal language model, in evaluation mode, that can write semantic IDs."""

    @property
    def sid_tokens(self) -> SidTokens:
        """Token ids of every code."""
        ...

    @property
    def device(self) -> torch.device:
        """Where inputs must lie."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Number of logits after every token, V."""
        ...

    def hidden(
        self,
        input_ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "B 1 T S"],
        position_ids: Int[Tensor, "B T"],
        cache: Any = None,
        *,
        use_cache: bool = False,
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Returns the states before the head and, where ``use_cache``, the cache with these T tokens appended.

        Args:
            input_ids: New tokens.
            mask: True where a new token may attend to one of the S = cached + T tokens.
            position_ids: Positions of the new tokens; several may share one.
            cache: What an earlier call returned, None at first.
            use_cache: Whether a later call will want these tokens.
        """
        ...

    def repeat_cache(self, cache: Any, num_rows: int) -> Any:
        """Returns a new cache of ``num_rows`` rows that each hold what the one row of ``cache`` holds."""
        ...

    def logits(
        self, hidden: Float[Tensor, "*batch D"], token_ids: Int[Tensor, "n"] | slice | None = None
    ) -> Float[Tensor, "*batch n"]:
        """Returns a new tensor: the logits of ``token_ids``, a slice from start to stop, or the whole vocabulary."""
        ...


@runtime_checkable
class CatalogPolicy(Policy, Protocol):
    """A policy that was trained on the semantic IDs of one catalog."""

    @property
    def catalog_version(self) -> str:
        """Version hash of that catalog."""
        ...
