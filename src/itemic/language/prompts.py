"""The one renderer: every prompt of training, evaluation and serving is made here, from the texts below.

Two modes. ``chat`` puts a task's words and inline SIDs into the backbone's own chat template. ``sid-only`` has no
words: beginning-of-sequence, then the SIDs of the history, then the next SID; for decoders over SID tokens alone.
Knows nothing of batches, models or datasets.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from itemic.core.errors import ConfigError, DataError
from itemic.core.files import text_hash
from itemic.language.spelling import SidTokens, Spelling
from itemic.language.thoughts import THOUGHT_OPENING, THOUGHT_STOP, THOUGHT_THEN, ThoughtTokens

__all__ = [
    "PROMPTS",
    "PROMPT_VERSION",
    "Message",
    "PromptMode",
    "Renderer",
    "TokenExample",
    "is_current_version",
    "prompt_version",
    "title_list",
]

PromptMode = Literal["chat", "sid-only"]

SYSTEM = "You are a recommender system. Items are written as semantic IDs."

_FIRST_PROMPTS = {
    "next_item": "Recommend the next item for a user with this history, oldest first:\n{history}",
    "titles_to_sid": "Recommend the next item for a user with this history of titles, oldest first:\n{titles}",
    "sids_to_title": "Name the next item for a user with this history, oldest first:\n{history}",
    "title_to_sid": "Which item has this title?\n{title}",
    "sid_to_title": "What is the title of this item?\n{sid}",
    "description_to_sid": "Which item fits this description?\n{description}",
    "sid_to_description": "Describe this item:\n{sid}",
}

_LATER_PROMPTS = {
    "titles_to_title": "Name the next item for a user with this history of titles, oldest first:\n{titles}",
    "sids_to_description": "Describe the next item for a user with this history, oldest first:\n{history}",
    "query_to_sid": "Which item does a user want who searches for this?\n{query}",
}
"""Of tasks that came later: models that were not taught them keep their version."""

PROMPTS = _FIRST_PROMPTS | _LATER_PROMPTS
"""The words of each task. The part that differs between examples comes last, so that the rest is a shared prefix."""

_PLAIN_TEMPLATE = "{system}\n\nUser: {user}\n\nAssistant: "
"""For backbones without a chat template of their own."""

_EMPTY_HISTORY = "(no history yet)"
_TITLE_LINE = "- {title}"

PROMPT_VERSION = text_hash(
    *(SYSTEM, _PLAIN_TEMPLATE, _EMPTY_HISTORY, _TITLE_LINE),
    *(f"{task}={text}" for task, text in sorted(_FIRST_PROMPTS.items())),
)[:12]
"""Changes whenever a word above does, but for the later tasks': a model says which version it was trained with."""

_LATER_VERSION = text_hash(PROMPT_VERSION, *(f"{task}={text}" for task, text in sorted(_LATER_PROMPTS.items())))[:12]

_MARK = "\ue000"
_CACHED_PIECES = 1 << 16


def prompt_version(tasks: Iterable[str], start: str = PROMPT_VERSION) -> str:
    """Returns the version of the words that a model of these tasks was taught with; ``start``'s is what it began as."""
    return start if _LATER_PROMPTS.keys().isdisjoint(tasks) else _LATER_VERSION


def is_current_version(version: str) -> bool:
    """Returns whether a model of this version was taught with today's words."""
    return version in (PROMPT_VERSION, _LATER_VERSION)


def title_list(titles: Sequence[str]) -> str:
    """Returns titles as a list, one a line."""
    return "\n".join(_TITLE_LINE.format(title=title) for title in titles) or _EMPTY_HISTORY


@dataclass(frozen=True, kw_only=True)
class Message:
    """A task's prompt and the answer that is wanted, as text with SIDs inline."""

    prompt: str
    answer: str
    answer_is_sid: bool
    """A SID ends by its length; a text answer is followed by the end-of-turn token."""


@dataclass(frozen=True, eq=False)
class TokenExample:
    """Token ids of a prompt and its answer, and which of them are learned."""

    tokens: Int[np.ndarray, "T"]
    is_label: Bool[np.ndarray, "T"]
    """True where the token is predicted from all tokens before it."""
    weight: Float[np.ndarray, "T"] | None = None
    """What the loss of each label counts; None where every one counts 1."""


class Renderer:
    """Turns histories and messages into token ids for one tokenizer and one catalogue."""

    def __init__(self, tokenizer: Any, spelling: Spelling, codes: Int[np.ndarray, "N L"], mode: PromptMode) -> None:
        """Prepares the template.

        Args:
            tokenizer: A Hugging Face tokenizer that knows every token of the spelling.
            spelling: How SIDs are written.
            codes: SID of every item.
            mode: ``chat`` or ``sid-only``.

        Raises:
            CatalogError: if a SID token is missing from the tokenizer.
            ConfigError: if the tokenizer cannot be used in this mode.
        """
        self.tokenizer = tokenizer
        self.spelling = spelling
        self.mode = mode
        self.codes = codes
        self.sid_tokens = SidTokens.from_tokenizer(tokenizer, spelling)
        self._item_tokens = self.sid_tokens.encode(codes)
        self._sid_ids = {token: tokenizer.convert_tokens_to_ids(token) for token in spelling.tokens()}
        self._split = re.compile("(" + "|".join(map(re.escape, sorted(self._sid_ids, key=len, reverse=True))) + ")")
        self._piece = functools.lru_cache(maxsize=_CACHED_PIECES)(self._encode_words)
        if mode == "chat":
            self._before, self._after = _chat_template(tokenizer)
            self._turn_end = _turn_end(tokenizer)
            self._check_pieces()
        elif tokenizer.bos_token_id is None:
            raise ConfigError("sid-only prompts need a tokenizer with a beginning-of-sequence token")

    @property
    def tokens_per_item(self) -> int:
        """Tokens that one item of a history costs."""
        return self.spelling.tokens_per_sid

    @property
    def answer_end(self) -> int:
        """Token that ends an answer in words (chat mode).

        Raises:
            ConfigError: in sid-only mode.
        """
        self._check_has_words("a text answer")
        return self._turn_end

    def sid_text(self, item_index: int) -> str:
        """Returns an item's SID as text."""
        return self.spelling.write(self.codes[item_index].tolist())

    def history_text(self, history: Sequence[int]) -> str:
        """Returns the SIDs of a history as text, one right after the other."""
        return "".join(map(self.sid_text, history)) or _EMPTY_HISTORY

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of text with SIDs inline; equals the tokenizer's own on the whole text.

        Words and SIDs are encoded apart, each distinct piece of words once: SID tokens split the text anyway.
        """
        ids: list[int] = []
        for piece in self._split.split(text):
            if piece in self._sid_ids:
                ids.append(self._sid_ids[piece])
            elif piece:
                ids.extend(self._piece(piece))
        return ids

    def next_item_prompt(self, history: Sequence[int]) -> list[int]:
        """Returns the prompt after which the next token is the first code of the next item.

        Args:
            history: Item indices, oldest first; may be empty.
        """
        if self.mode == "chat":
            prompt = self.prompt_ids(PROMPTS["next_item"].format(history=self.history_text(history)))
        else:
            prompt = [self.tokenizer.bos_token_id, *self._history_ids(history)]
        return [*prompt, *self.sid_tokens.opening_ids]

    def thinking_prompt(self, history: Sequence[int]) -> list[int]:
        """Returns the prompt of the next item after which the first token of a thought follows (chat mode).

        The words are those of ``next_item_prompt``; the template is told to let the model think, where it knows of it.

        Args:
            history: Item indices, oldest first; may be empty.

        Raises:
            ConfigError: in sid-only mode, which has no words to think in.
        """
        before, after = self._thinking_template
        return self.encode(before + PROMPTS["next_item"].format(history=self.history_text(history)) + after)

    def thought_tokens(self) -> ThoughtTokens:
        """Returns the tokens that end a thought and lead over to the next item's first code (chat mode).

        A thought holds no special token of the tokenizer. Where the stop is not one token of the tokenizer, a thought
        may run into it without its being seen: then the budget ends the thought.

        Raises:
            ConfigError: in sid-only mode.
        """
        self._check_has_words()
        stop = tuple(self.encode(THOUGHT_STOP))
        return ThoughtTokens(
            stop_ids=stop,
            then_ids=(*self.encode(THOUGHT_THEN), *self.sid_tokens.opening_ids),
            never_ids=tuple(sorted({*self.tokenizer.all_special_ids, self._turn_end}.difference(stop))),
        )

    def prompt_ids(self, user_text: str) -> list[int]:
        """Returns a user's message in the chat template, up to where the answer begins."""
        return self.encode(self._before + user_text + self._after)

    def message_prompt(self, message: Message) -> list[int]:
        """Returns the prompt of a message (chat mode): after it comes a SID's first code, or the first word."""
        prompt = self.prompt_ids(message.prompt)
        return [*prompt, *self.sid_tokens.opening_ids] if message.answer_is_sid else prompt

    def example(self, message: Message) -> TokenExample:
        """Returns the tokens of a message; the answer's are the labels (a SID's wrappers are not: they are given)."""
        prompt, answer = self.message_prompt(message), self.encode(message.answer)
        if not message.answer_is_sid:
            return _labelled(prompt, [*answer, self.answer_end])
        opening = len(self.sid_tokens.opening_ids)
        return _labelled(prompt, answer[opening : opening + self.spelling.num_levels])

    def next_item_example(self, history: Sequence[int], target: int) -> TokenExample:
        """Returns one padded-style example: the prompt of the history, then the codes of the target as labels."""
        opening = len(self.sid_tokens.opening_ids)
        codes = self._item_tokens[target][opening : opening + self.spelling.num_levels]
        return _labelled(self.next_item_prompt(history), codes.tolist())

    def continuation(
        self,
        items: Sequence[int],
        first_label: int,
        *,
        is_target: Bool[np.ndarray, "n"] | None = None,
        weight: Float[np.ndarray, "n"] | None = None,
    ) -> TokenExample:
        """Returns a sequence of items in which every item from ``first_label`` on is learned (sid-only mode).

        Args:
            items: Item indices, oldest first.
            first_label: Position in ``items`` of the first label; 0 also learns which items begin a history.
            is_target: Which of these items are learned at all; None learns each.
            weight: What the loss of each item counts; None counts each 1.

        Raises:
            ConfigError: in chat mode, whose template closes the prompt before the answer.
        """
        if self.mode != "sid-only":
            raise ConfigError("a continuation needs sid-only prompts: a chat template closes the prompt first")
        body = self._item_tokens[np.asarray(items, dtype=np.int64)]
        is_label = np.zeros(body.shape, dtype=bool)
        opening = len(self.sid_tokens.opening_ids)
        is_label[first_label:, opening : opening + self.spelling.num_levels] = True
        if is_target is not None:
            is_label[~is_target] = False
        bos = np.array([self.tokenizer.bos_token_id], dtype=np.int64)
        tokens, labels = np.concatenate([bos, body.ravel()]), np.concatenate([[False], is_label.ravel()])
        if weight is None:
            return TokenExample(tokens, labels)
        return TokenExample(tokens, labels, np.append(1, np.repeat(weight, body.shape[1])).astype(np.float32))

    @functools.cached_property
    def _thinking_template(self) -> tuple[str, str]:
        self._check_has_words()
        before, after = _chat_template(self.tokenizer, lets_think=True)
        return before, after if after.endswith(THOUGHT_OPENING) else after + THOUGHT_OPENING

    def _check_has_words(self, what: str = "a thought") -> None:
        if self.mode != "chat":
            raise ConfigError(f"{what} needs words: this model's prompts are sid-only; train one with chat prompts")

    def _history_ids(self, history: Sequence[int]) -> list[int]:
        ids: list[int] = self._item_tokens[np.asarray(history, dtype=np.int64)].ravel().tolist()
        return ids

    def _encode_words(self, words: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(words, add_special_tokens=False))

    def _check_pieces(self) -> None:
        """Refuses a tokenizer for which encoding around SIDs piece by piece is not the same as all at once."""
        sample = self._before + PROMPTS["next_item"].format(history=self.history_text([0, len(self.codes) - 1]))
        sample += self._after
        whole = self.tokenizer.encode(sample, add_special_tokens=False)
        if self.encode(sample) != list(whole):
            raise ConfigError(
                f"{type(self.tokenizer).__name__}: words beside SID tokens are encoded differently alone and together; "
                "add the SID tokens without stripping neighbouring spaces (lstrip=False, rstrip=False)"
            )


def _labelled(prompt: list[int], answer: list[int]) -> TokenExample:
    is_label = np.arange(len(prompt) + len(answer)) >= len(prompt)
    return TokenExample(np.array([*prompt, *answer], dtype=np.int64), is_label)


def _chat_template(tokenizer: Any, lets_think: bool = False) -> tuple[str, str]:
    """Returns the text before and after the user's words, up to where the assistant speaks, or thinks."""
    if not tokenizer.chat_template:
        before, after = _PLAIN_TEMPLATE.format(system=SYSTEM, user=_MARK).split(_MARK)
        return (tokenizer.bos_token or "") + before, after
    user = {"role": "user", "content": _MARK}
    for messages in ([{"role": "system", "content": SYSTEM}, user], [user]):
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=lets_think
            )
        except Exception as error:  # a template raises its own jinja errors, for a system role it does not know say
            refusal = error
            continue
        if text.count(_MARK) == 1:
            before, after = text.split(_MARK)
            return before, after
        refusal = DataError("the user's words stand there more or less than once")
    raise ConfigError(f"{type(tokenizer).__name__}: its chat template cannot be used: {refusal}")


def _turn_end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"{type(tokenizer).__name__} has no end-of-sequence token to close an answer with")
    return int(tokenizer.eos_token_id)
