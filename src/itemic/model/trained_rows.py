"""Tables of vocabulary rows of which some train and the others cannot change.

The rows that train are a parameter of their own. Masking the gradient of one big table instead would leave its old
rows to weight decay and to the optimizer's memory, and would keep optimizer state for every one of them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["TrainedRowsEmbedding", "TrainedRowsHead"]


class _TrainedRows(nn.Module):
    """A frozen module with a weight (V, D), and the parameter that stands in for some of its rows."""

    base: nn.Embedding | nn.Linear
    token_ids: Tensor
    slot_of: Tensor

    def __init__(
        self, base: nn.Embedding | nn.Linear, token_ids: Int[Tensor, "n"], trained: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.trained = nn.Parameter(base.weight.detach()[token_ids].clone()) if trained is None else trained
        slot_of = torch.full((base.weight.shape[0],), -1, device=token_ids.device)
        slot_of[token_ids] = torch.arange(len(token_ids), device=token_ids.device)
        self.register_buffer("token_ids", token_ids, persistent=False)
        self.register_buffer("slot_of", slot_of, persistent=False)

    def rows(self, token_ids: Int[Tensor, "*b"] | slice) -> Float[Tensor, "*b D"]:
        """Returns the rows of some tokens, or of a slice of them, trained or frozen."""
        slots = self.slot_of[token_ids]
        return torch.where((slots >= 0).unsqueeze(-1), self.trained[slots.clamp(min=0)], self.base.weight[token_ids])

    def merged_weight(self) -> Float[Tensor, "V D"]:
        """Returns the whole table as one tensor, without gradient."""
        return self.base.weight.detach().index_copy(0, self.token_ids, self.trained.detach())


class TrainedRowsEmbedding(_TrainedRows):
    """An embedding with some rows trained; whatever else the embedding does (Gemma scales it) is kept."""

    def __init__(self, base: nn.Embedding, token_ids: Int[Tensor, "n"]) -> None:
        """Takes over ``base``, whose weight is frozen.

        Args:
            base: The embedding, of any subclass.
            token_ids: Rows that train, on the device of the embedding.
        """
        super().__init__(base, token_ids)
        # It only keeps a row from getting a gradient: without effect on a frozen table, wrong on the trained one.
        base.padding_idx = None

    def forward(self, input_ids: Int[Tensor, "*b"]) -> Float[Tensor, "*b D"]:
        """Returns the embeddings of the tokens."""
        slots = self.slot_of[input_ids]
        frozen: Tensor = self.base(input_ids)
        trained: Tensor = torch.func.functional_call(self.base, {"weight": self.trained}, (slots.clamp(min=0),))
        return torch.where((slots >= 0).unsqueeze(-1), trained, frozen)


class TrainedRowsHead(_TrainedRows):
    """A linear head with some rows trained; its bias, where it has one, is frozen."""

    base: nn.Linear

    def __init__(self, base: nn.Linear, token_ids: Int[Tensor, "n"], trained: nn.Parameter | None = None) -> None:
        """Takes over ``base``, whose weight is frozen.

        Args:
            base: The head.
            token_ids: Rows that train.
            trained: The embedding's trained rows where the head is tied to it; None for rows of its own.
        """
        super().__init__(base, token_ids, trained)

    @property
    def bias(self) -> Tensor | None:
        """The head's bias (V), or None."""
        return self.base.bias

    def forward(self, hidden: Float[Tensor, "*b D"]) -> Float[Tensor, "*b V"]:
        """Returns the product with every row."""
        bias = None if self.bias is None else self.bias[self.token_ids]
        product: Tensor = self.base(hidden)
        return product.index_copy(-1, self.token_ids, nn.functional.linear(hidden, self.trained, bias).to(product))
