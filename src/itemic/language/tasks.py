"""What a model is taught: each task turns a dataset row or an item into a prompt and its answer.

A task decides which facts stand on which side; the words around them live in ``prompts`` alone.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from itemic.core.errors import ConfigError
from itemic.language.prompts import PROMPTS, Message, Renderer, title_list

__all__ = ["NEXT_TITLE_TASK", "TASKS", "ItemTexts", "Task", "check_tasks", "next_title_prompt"]

_TOKEN_LIKE = re.compile(r"<(\||(?:s_)?[a-z]_\d+>)")
_MAX_DESCRIPTION_WORDS = 60
_MAX_TITLE_WORDS = 30
_QUERY_WORDS = 3


@dataclass(frozen=True)
class ItemTexts:
    """Titles, descriptions and searches by item index, clipped to a sensible number of words."""

    titles: Sequence[str]
    descriptions: Sequence[str]
    queries: Sequence[str] = ()
    """What a user might search for who wants the item; empty where its title is too short to shorten."""

    @classmethod
    def from_items(cls, items: pl.DataFrame) -> "ItemTexts":
        """Returns the texts of a catalogue; a missing text is empty."""
        titles = [_clip(text, _MAX_TITLE_WORDS) for text in items["title"].fill_null("")]
        descriptions = [_clip(text, _MAX_DESCRIPTION_WORDS) for text in items["description"].fill_null("")]
        brands = items["brand"].cast(pl.String).fill_null("") if "brand" in items.columns else [""] * len(titles)
        return cls(titles, descriptions, _queries(titles, [_clip(brand, _QUERY_WORDS) for brand in brands]))


HistoryBuilder = Callable[[Sequence[int], int, ItemTexts, Renderer], Message | None]
ItemBuilder = Callable[[int, ItemTexts, Renderer], Message | None]


@dataclass(frozen=True)
class Task:
    """A named way to make messages; exactly one of the two builders is set."""

    name: str
    unit: Literal["history", "item"]
    answer: Literal["sid", "title", "description"]
    """What the answer is: a semantic ID, an item's title, or its description."""
    from_history: HistoryBuilder | None = None
    """From (history, target): one message for each training example; None where a text is missing."""
    from_item: ItemBuilder | None = None
    """From an item: one message for each item; None where its text is missing."""


def _next_item(history: Sequence[int], target: int, texts: ItemTexts, renderer: Renderer) -> Message | None:
    prompt = PROMPTS["next_item"].format(history=renderer.history_text(history))
    return Message(prompt=prompt, answer=renderer.sid_text(target), answer_is_sid=True)


def _titles_to_sid(history: Sequence[int], target: int, texts: ItemTexts, renderer: Renderer) -> Message | None:
    titles = [texts.titles[item] for item in history if texts.titles[item]]
    if not titles:
        return None
    prompt = PROMPTS["titles_to_sid"].format(titles=title_list(titles))
    return Message(prompt=prompt, answer=renderer.sid_text(target), answer_is_sid=True)


def _sids_to_title(history: Sequence[int], target: int, texts: ItemTexts, renderer: Renderer) -> Message | None:
    if not texts.titles[target]:
        return None
    prompt = PROMPTS["sids_to_title"].format(history=renderer.history_text(history))
    return Message(prompt=prompt, answer=texts.titles[target], answer_is_sid=False)


def next_title_prompt(history: Sequence[int], texts: ItemTexts, renderer: Renderer) -> list[int]:
    """Returns the prompt of ``titles_to_title``, after which the first word of the next item's title follows.

    Args:
        history: Item indices, oldest first; may be empty. Items without a title are passed over.
        texts: Holds the titles.
        renderer: In chat mode.
    """
    return renderer.prompt_ids(_ask_for_title([texts.titles[item] for item in history if texts.titles[item]]))


def _ask_for_title(titles: Sequence[str]) -> str:
    return PROMPTS["titles_to_title"].format(titles=title_list(titles))


def _titles_to_title(history: Sequence[int], target: int, texts: ItemTexts, renderer: Renderer) -> Message | None:
    titles = [texts.titles[item] for item in history if texts.titles[item]]
    if not titles or not texts.titles[target]:
        return None
    prompt = _ask_for_title(titles)
    return Message(prompt=prompt, answer=texts.titles[target], answer_is_sid=False)


def _sids_to_description(history: Sequence[int], target: int, texts: ItemTexts, renderer: Renderer) -> Message | None:
    if not texts.descriptions[target]:
        return None
    prompt = PROMPTS["sids_to_description"].format(history=renderer.history_text(history))
    return Message(prompt=prompt, answer=texts.descriptions[target], answer_is_sid=False)


def _query_to_sid(item: int, texts: ItemTexts, renderer: Renderer) -> Message | None:
    return _text_to_sid("query_to_sid", "query", texts.queries[item], item, renderer)


def _title_to_sid(item: int, texts: ItemTexts, renderer: Renderer) -> Message | None:
    return _text_to_sid("title_to_sid", "title", texts.titles[item], item, renderer)


def _description_to_sid(item: int, texts: ItemTexts, renderer: Renderer) -> Message | None:
    return _text_to_sid("description_to_sid", "description", texts.descriptions[item], item, renderer)


def _sid_to_title(item: int, texts: ItemTexts, renderer: Renderer) -> Message | None:
    return _sid_to_text("sid_to_title", texts.titles[item], item, renderer)


def _sid_to_description(item: int, texts: ItemTexts, renderer: Renderer) -> Message | None:
    return _sid_to_text("sid_to_description", texts.descriptions[item], item, renderer)


def _text_to_sid(task: str, field: str, text: str, item: int, renderer: Renderer) -> Message | None:
    if not text:
        return None
    prompt = PROMPTS[task].format(**{field: text})
    return Message(prompt=prompt, answer=renderer.sid_text(item), answer_is_sid=True)


def _sid_to_text(task: str, text: str, item: int, renderer: Renderer) -> Message | None:
    if not text:
        return None
    return Message(prompt=PROMPTS[task].format(sid=renderer.sid_text(item)), answer=text, answer_is_sid=False)


TASKS = {
    task.name: task
    for task in (
        Task("next_item", "history", "sid", from_history=_next_item),
        Task("titles_to_sid", "history", "sid", from_history=_titles_to_sid),
        Task("sids_to_title", "history", "title", from_history=_sids_to_title),
        Task("titles_to_title", "history", "title", from_history=_titles_to_title),
        Task("sids_to_description", "history", "description", from_history=_sids_to_description),
        Task("title_to_sid", "item", "sid", from_item=_title_to_sid),
        Task("sid_to_title", "item", "title", from_item=_sid_to_title),
        Task("description_to_sid", "item", "sid", from_item=_description_to_sid),
        Task("sid_to_description", "item", "description", from_item=_sid_to_description),
        Task("query_to_sid", "item", "sid", from_item=_query_to_sid),
    )
}
"""Every task by name."""

NEXT_TITLE_TASK = "titles_to_title"
"""What teaches a model to answer with the next item's title."""


def check_tasks(weights: dict[str, float], mode: str) -> None:
    """Raises ConfigError for an unknown task, a weight that is not positive, or a task that the mode cannot write."""
    for name, weight in weights.items():
        if name not in TASKS:
            raise ConfigError(f"tasks: unknown task {name!r}; there are {', '.join(TASKS)}")
        if not weight > 0:
            raise ConfigError(f"tasks.{name}: weight must be above 0, found {weight}; leave the task out instead")
        if mode == "sid-only" and name != "next_item":
            raise ConfigError(
                f"tasks.{name}: needs words, but sid-only prompts have none; use a backbone, or a decoder with words"
            )
    if not weights:
        raise ConfigError("tasks: at least one task is needed")


def _clip(text: str, max_words: int) -> str:
    """Returns the first words of a text, in which nothing can be read as a control or SID token any more."""
    words = _TOKEN_LIKE.sub(r"< \1", text).split()
    return " ".join(words[:max_words])


def _queries(titles: Sequence[str], brands: Sequence[str]) -> list[str]:
    """Returns for each item its brand and the rarest words of its title in their order, in lower case.

    LC-Rec (Zheng et al. 2023) has a language model write what a user might search for; these are made of the
    catalogue alone. A title that has no more words than that gets no query: it would be asked for as a title.
    """
    split = [list(dict.fromkeys(title.lower().split())) for title in titles]
    frequency = Counter(word for words in split for word in words)
    queries = []
    for words, brand in zip(split, brands, strict=True):
        brand_words = brand.lower().split()
        others = [word for word in words if word not in brand_words]
        rarest = sorted(others, key=lambda word: frequency[word])[:_QUERY_WORDS]
        is_shorter = len(others) > _QUERY_WORDS
        queries.append(" ".join([*brand_words, *(word for word in others if word in rarest)]) if is_shorter else "")
    return queries
