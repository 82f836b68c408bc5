"""How a semantic ID is written as text and as token ids: the only home of that format.

Two spellings: ``plain`` (MiniOneRec, ``<a_1><b_2><c_3>``, one token a level) and ``wrapped`` (OpenOneRec,
``<|sid_begin|><s_a_1><s_b_2><s_c_3><|sid_end|>``, two tokens more). Knows nothing of prompts or catalogues.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Int

from itemic.core.errors import CatalogError, ConfigError

__all__ = ["SidTokens", "Spelling", "SpellingStyle"]

SpellingStyle = Literal["plain", "wrapped"]

_CODE_FORMAT = {"plain": "<{level}_{code}>", "wrapped": "<s_{level}_{code}>"}
_CODE_PATTERN = {"plain": r"<{level}_(\d+)>", "wrapped": r"<s_{level}_(\d+)>"}
_OPENING = {"plain": (), "wrapped": ("<|sid_begin|>",)}
_CLOSING = {"plain": (), "wrapped": ("<|sid_end|>",)}


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """A style of writing SIDs with a fixed number of levels and codebook sizes."""

    style: SpellingStyle
    """``plain`` or ``wrapped``."""
    codebook_sizes: tuple[int, ...]
    """Number of codes of each level, coarse first."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_levels <= len(string.ascii_lowercase) or min(self.codebook_sizes) < 1:
            raise ConfigError(f"codebook sizes {self.codebook_sizes}: expected 1 to 26 levels of at least one code")

    @classmethod
    def of(cls, style: str, codebook_sizes: Sequence[int]) -> "Spelling":
        """Returns the spelling of a style given as text, by a catalog say.

        Raises:
            ConfigError: if the style does not exist or the sizes are impossible.
        """
        if style not in _CODE_FORMAT:
            raise ConfigError(f"spelling {style!r}: expected plain or wrapped")
        return cls(style=cast(SpellingStyle, style), codebook_sizes=tuple(codebook_sizes))

    @property
    def num_levels(self) -> int:
        """Number of levels L."""
        return len(self.codebook_sizes)

    @property
    def opening(self) -> tuple[str, ...]:
        """Tokens before the codes of every SID."""
        return _OPENING[self.style]

    @property
    def closing(self) -> tuple[str, ...]:
        """Tokens after the codes of every SID."""
        return _CLOSING[self.style]

    @property
    def tokens_per_sid(self) -> int:
        """Number of tokens that one item costs."""
        return len(self.opening) + self.num_levels + len(self.closing)

    def token(self, level: int, code: int) -> str:
        """Returns the token of one code.

        Raises:
            CatalogError: if the level or code does not exist.
        """
        if not (0 <= level < self.num_levels and 0 <= code < self.codebook_sizes[level]):
            raise CatalogError(f"no code {code} at level {level}: codebook sizes are {self.codebook_sizes}")
        return _CODE_FORMAT[self.style].format(level=string.ascii_lowercase[level], code=code)

    def tokens(self) -> list[str]:
        """Returns every token of this spelling, used by an item or not: level by level, then the wrappers."""
        codes = [self.token(level, code) for level, size in enumerate(self.codebook_sizes) for code in range(size)]
        return [*codes, *self.opening, *self.closing]

    def write(self, sid: Sequence[int]) -> str:
        """Returns a SID as text.

        Raises:
            CatalogError: if the SID has another length or a code that does not exist.
        """
        if len(sid) != self.num_levels:
            raise CatalogError(f"SID {tuple(sid)} has {len(sid)} codes, expected {self.num_levels}")
        codes = [self.token(level, int(code)) for level, code in enumerate(sid)]
        return "".join([*self.opening, *codes, *self.closing])

    def read(self, text: str) -> list[tuple[int, ...]]:
        """Returns the complete SIDs in a text, in order; partial ones and codes out of range are left out."""
        levels = string.ascii_lowercase[: self.num_levels]
        codes = "".join(_CODE_PATTERN[self.style].format(level=level) for level in levels)
        pattern = "".join(map(re.escape, self.opening)) + codes + "".join(map(re.escape, self.closing))
        sids = (
            [tuple(map(int, match)) for match in re.findall(pattern, text)]
            if self.num_levels > 1
            else [(int(match),) for match in re.findall(pattern, text)]
        )
        return [sid for sid in sids if all(c < size for c, size in zip(sid, self.codebook_sizes, strict=True))]


@dataclass(frozen=True, eq=False)
class SidTokens:
    """Token ids of a spelling in one tokenizer."""

    spelling: Spelling
    level_ids: tuple[Int[np.ndarray, "_"], ...]
    """For each level the token id of every code."""
    opening_ids: tuple[int, ...]
    closing_ids: tuple[int, ...]

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, spelling: Spelling) -> "SidTokens":
        """Returns the ids that a Hugging Face tokenizer gives to the spelling's tokens.

        Raises:
            CatalogError: naming the first token that the tokenizer does not know as one token.
        """
        vocabulary = tokenizer.get_vocab()
        for token in spelling.tokens():
            if token not in vocabulary:
                raise CatalogError(f"the tokenizer has no token {token}; expand the vocabulary for this catalog first")
        level_ids = tuple(
            np.array([vocabulary[spelling.token(level, code)] for code in range(size)], dtype=np.int64)
            for level, size in enumerate(spelling.codebook_sizes)
        )
        opening = tuple(vocabulary[token] for token in spelling.opening)
        closing = tuple(vocabulary[token] for token in spelling.closing)
        return cls(spelling, level_ids, opening, closing)

    @property
    def all_ids(self) -> Int[np.ndarray, "n"]:
        """Token ids of every code and wrapper."""
        wrappers = np.array([*self.opening_ids, *self.closing_ids], dtype=np.int64)
        return np.concatenate([*self.level_ids, wrappers])

    def encode(self, codes: Int[np.ndarray, "n L"]) -> Int[np.ndarray, "n t"]:
        """Returns the token ids of n SIDs, wrappers included; t is ``spelling.tokens_per_sid``."""
        columns = [self.level_ids[level][codes[:, level]] for level in range(self.spelling.num_levels)]
        opening = [np.full(len(codes), token, dtype=np.int64) for token in self.opening_ids]
        closing = [np.full(len(codes), token, dtype=np.int64) for token in self.closing_ids]
        return np.stack([*opening, *columns, *closing], axis=1)
