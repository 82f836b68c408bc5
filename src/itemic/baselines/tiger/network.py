"""TIGER's network: an encoder that reads a history's codes and a decoder that writes one semantic ID.

The shape is T5's. Beams are queries of one row, so what the encoder made of a history is kept once, whatever their
number. Knows nothing of items, catalogs, training or search.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["History", "Prefixes", "TigerNetwork", "TigerShape"]


@dataclass(frozen=True, kw_only=True)
class TigerShape:
    """Everything that says how large the network is."""

    codebook_sizes: tuple[int, ...]
    """Number of codes of each of the L levels."""
    max_history: int
    """Most items of a history."""
    hidden_size: int
    """Width D of the states."""
    num_encoder_layers: int
    """Blocks that read."""
    num_decoder_layers: int
    """Blocks that write."""
    num_heads: int
    """Attention heads H."""
    head_size: int
    """Width d of a head."""
    feed_forward_size: int
    """Hidden units of a feed-forward part."""


@dataclass(frozen=True, eq=False)
class History:
    """What the encoder made of B histories, as each decoder block asks it."""

    keys_and_values: tuple[tuple[Float[Tensor, "B H S d"], Float[Tensor, "B H S d"]], ...]
    """One pair for each block of the decoder."""
    is_token: Bool[Tensor, "B S"]
    """False for padding."""


@dataclass(frozen=True, eq=False)
class Prefixes:
    """What the decoder's blocks keep of W prefixes for each history: keys and values of t tokens."""

    keys_and_values: tuple[tuple[Float[Tensor, "B W H t d"], Float[Tensor, "B W H t d"]], ...]
    """One pair for each block of the decoder."""

    def continued_by(self, parent: Int[Tensor, "B V"]) -> "Prefixes":
        """Returns the prefixes that V beams continue.

        Args:
            parent: Column of the prefix of each beam.
        """
        rows = torch.arange(len(parent), device=parent.device)[:, None]
        return Prefixes(tuple((keys[rows, parent], values[rows, parent]) for keys, values in self.keys_and_values))


class TigerNetwork(nn.Module):
    """From the codes of a history to the distribution of the next item's codes, one after the other.

    Each code of each level has an embedding of its own, which is also its row of the output, as in T5. Deviations from
    T5: a history is closed by an end token and padded on its left, every distance has a bias of its own (T5 puts far
    ones together), attention's weights are not dropped, and the softmax at a level is over the codes of that level.
    """

    def __init__(self, shape: TigerShape, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        starts = torch.tensor([0, *shape.codebook_sizes]).cumsum(dim=0)
        self._starts: list[int] = starts.tolist()
        self.end_of_history, self.start_of_answer = self._starts[-1], self._starts[-1] + 1
        self.tokens = nn.Embedding(self._starts[-1] + 2, shape.hidden_size)
        longest = shape.max_history * len(shape.codebook_sizes) + 1
        self.encoder_bias = nn.Parameter(torch.zeros(shape.num_heads, 2 * longest - 1))
        self.decoder_bias = nn.Parameter(torch.zeros(shape.num_heads, len(shape.codebook_sizes)))
        self.encoder = nn.ModuleList(_EncoderBlock(shape, dropout) for _ in range(shape.num_encoder_layers))
        self.decoder = nn.ModuleList(_DecoderBlock(shape, dropout) for _ in range(shape.num_decoder_layers))
        self.encoder_norm = nn.RMSNorm(shape.hidden_size)
        self.decoder_norm = nn.RMSNorm(shape.hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.apply(_initialise)

    @property
    def num_levels(self) -> int:
        """Number of codes L of a semantic ID."""
        return len(self.shape.codebook_sizes)

    def token_ids(self, codes: Int[Tensor, "*shape L"]) -> Int[Tensor, "*shape L"]:
        """Returns the token of each code of semantic IDs."""
        return codes + torch.tensor(self._starts[:-1], device=codes.device)

    def read(self, codes: Int[Tensor, "B T L"], is_item: Bool[Tensor, "B T"]) -> History:
        """Returns what the encoder makes of histories.

        Args:
            codes: Semantic IDs, oldest item first.
            is_item: False for padding, which goes to the left.
        """
        tokens = functional.pad(self.token_ids(codes).flatten(1), (0, 1), value=self.end_of_history)
        is_token = functional.pad(is_item.repeat_interleave(self.num_levels, dim=1), (0, 1), value=True)
        bias = self._encoder_bias(tokens.shape[1]).masked_fill(~is_token[:, None, None], -torch.inf)
        state = self.dropout(self.tokens(tokens))
        for block in self.encoder:
            state = block(state, bias)
        state = self.dropout(self.encoder_norm(state))
        looks = (block.look for block in self.decoder if isinstance(block, _DecoderBlock))
        return History(tuple(look.keys_and_values(state) for look in looks), is_token)

    def forward(
        self, codes: Int[Tensor, "B T L"], is_item: Bool[Tensor, "B T"], target: Int[Tensor, "B L"]
    ) -> list[Float[Tensor, "B _"]]:
        """Returns for each level the logits of its codes after the target's codes before it.

        Args:
            codes: Semantic IDs of the history, oldest item first.
            is_item: False for padding, which goes to the left.
            target: Semantic ID of the next item.
        """
        before = functional.pad(self.token_ids(target)[:, :-1], (1, 0), value=self.start_of_answer)
        states, _ = self._decode(self.read(codes, is_item), before[:, None], None)
        return [self._logits(states[:, 0, level], level) for level in range(self.num_levels)]

    def begin(self, history: History) -> tuple[Float[Tensor, "B 1 K"], Prefixes]:
        """Returns the logits of the first level's codes, and the empty prefix that every beam continues."""
        start = torch.full((len(history.is_token), 1, 1), self.start_of_answer, device=history.is_token.device)
        states, prefixes = self._decode(history, start, None)
        return self._logits(states[:, :, 0], 0), prefixes

    def step(
        self, history: History, prefixes: Prefixes, code: Int[Tensor, "B W"], level: int
    ) -> tuple[Float[Tensor, "B W K"], Prefixes]:
        """Returns the logits of the next level's codes after one more code, and the prefixes with it.

        Args:
            history: What the encoder made of the histories.
            prefixes: What comes before the code.
            code: Code of each beam.
            level: Level of that code, from 0.
        """
        states, prefixes = self._decode(history, (code + self._starts[level])[..., None], prefixes)
        return self._logits(states[:, :, 0], level + 1), prefixes

    def _decode(
        self, history: History, tokens: Int[Tensor, "B W T"], before: Prefixes | None
    ) -> tuple[Float[Tensor, "B W T D"], Prefixes]:
        """Returns the states after each of T further tokens of W prefixes, and the prefixes with them."""
        num_before = 0 if before is None else before.keys_and_values[0][0].shape[3]
        bias = self._decoder_bias(num_before, tokens.shape[2])
        state = self.dropout(self.tokens(tokens))
        kept = []
        for layer, block in enumerate(self.decoder):
            past = None if before is None else before.keys_and_values[layer]
            state, own = block(state, bias, past, history.keys_and_values[layer], history.is_token)
            kept.append(own)
        return self.dropout(self.decoder_norm(state)), Prefixes(tuple(kept))

    def _logits(self, state: Float[Tensor, "*shape D"], level: int) -> Float[Tensor, "*shape K"]:
        rows = self.tokens.weight[self._starts[level] : self._starts[level + 1]]
        logits: Tensor = functional.linear(state, rows) * self.shape.hidden_size**-0.5
        return logits

    def _encoder_bias(self, length: int) -> Float[Tensor, "1 H S S"]:
        """Returns what each token adds to its attention to each other, by how far it is before or behind."""
        position = torch.arange(length, device=self.encoder_bias.device)
        middle = self.encoder_bias.shape[1] // 2
        return self.encoder_bias[None, :, middle + position[:, None] - position]

    def _decoder_bias(self, num_before: int, num_tokens: int) -> Float[Tensor, "H T t"]:
        """Returns what each new token adds to its attention to each one up to it; -inf for later ones."""
        position = torch.arange(num_before + num_tokens, device=self.decoder_bias.device)
        distance = position[num_before:, None] - position
        return self.decoder_bias[:, distance.clamp(min=0)].masked_fill(distance < 0, -torch.inf)


class _Attention(nn.Module):
    """Attention of states to keys and values that are made, and may be kept, apart; no biases, as in T5."""

    def __init__(self, shape: TigerShape) -> None:
        super().__init__()
        self.head_size = shape.head_size
        width = shape.num_heads * shape.head_size
        self.query = nn.Linear(shape.hidden_size, width, bias=False)
        self.key_value = nn.Linear(shape.hidden_size, 2 * width, bias=False)
        self.output = nn.Linear(width, shape.hidden_size, bias=False)

    def keys_and_values(
        self, state: Float[Tensor, "n S D"]
    ) -> tuple[Float[Tensor, "n H S d"], Float[Tensor, "n H S d"]]:
        """Returns what may be attended to."""
        keys, values = self.key_value(state).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self,
        state: Float[Tensor, "n T D"],
        keys_and_values: tuple[Float[Tensor, "n H S d"], Float[Tensor, "n H S d"]],
        mask: Float[Tensor, "#n #H #T S"] | Bool[Tensor, "#n #H #T S"],
    ) -> Float[Tensor, "n T D"]:
        query = self._split(self.query(state))
        attended = functional.scaled_dot_product_attention(query, *keys_and_values, attn_mask=mask)
        mixed: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, state: Float[Tensor, "n T w"]) -> Float[Tensor, "n H T d"]:
        return state.view(*state.shape[:2], -1, self.head_size).transpose(1, 2)


class _EncoderBlock(nn.Module):
    """Attention among all tokens and feed-forward, each on a normalised input and added to it."""

    def __init__(self, shape: TigerShape, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(shape.hidden_size)
        self.attend = _Attention(shape)
        self.feed_forward = _feed_forward(shape)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Float[Tensor, "B S D"], bias: Float[Tensor, "B H S S"]) -> Float[Tensor, "B S D"]:
        normed = self.norm(state)
        state = state + self.dropout(self.attend(normed, self.attend.keys_and_values(normed), bias))
        added: Tensor = state + self.dropout(self.feed_forward(state))
        return added


class _DecoderBlock(nn.Module):
    """Attention within a prefix, a look at the history, feed-forward."""

    def __init__(self, shape: TigerShape, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(shape.hidden_size)
        self.attend = _Attention(shape)
        self.look_norm = nn.RMSNorm(shape.hidden_size)
        self.look = _Attention(shape)
        self.feed_forward = _feed_forward(shape)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        state: Float[Tensor, "B W T D"],
        bias: Float[Tensor, "H T t"],
        past: tuple[Float[Tensor, "B W H s d"], Float[Tensor, "B W H s d"]] | None,
        history: tuple[Float[Tensor, "B H S d"], Float[Tensor, "B H S d"]],
        is_token: Bool[Tensor, "B S"],
    ) -> tuple[Float[Tensor, "B W T D"], tuple[Float[Tensor, "B W H t d"], Float[Tensor, "B W H t d"]]]:
        """Returns the new states, and keys and values of the prefixes with the new tokens."""
        B, W = state.shape[:2]
        normed = self.norm(state).flatten(0, 1)
        keys, values = self.attend.keys_and_values(normed)
        if past is not None:
            keys, values = (
                torch.cat([old.flatten(0, 1), new], 2) for old, new in zip(past, (keys, values), strict=True)
            )
        state = state + self.dropout(self.attend(normed, (keys, values), bias[None]).view_as(state))
        looked = self.look(self.look_norm(state).flatten(1, 2), history, is_token[:, None, None])
        state = state + self.dropout(looked.view_as(state))
        kept = (keys.view(B, W, *keys.shape[1:]), values.view(B, W, *values.shape[1:]))
        return state + self.dropout(self.feed_forward(state)), kept


def _feed_forward(shape: TigerShape) -> nn.Sequential:
    return nn.Sequential(
        nn.RMSNorm(shape.hidden_size),
        nn.Linear(shape.hidden_size, shape.feed_forward_size, bias=False),
        nn.ReLU(),
        nn.Linear(shape.feed_forward_size, shape.hidden_size, bias=False),
    )


def _initialise(module: nn.Module) -> None:
    """Embeddings of unit variance, linear maps that keep it; T5's but for the scale of the queries."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight)
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
