"""What RL asks: the questions of an epoch, drawn as light references and rendered when they are asked.

History tasks ask about the rows of the training split and about no other; item tasks about the catalogue. Every
question is written as supervised fine-tuning writes it and carries its own targets. Knows no model and no reward.
"""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from itemic.core.dataset import Dataset, cold_mask
from itemic.core.errors import ConfigError
from itemic.decode.trie import Trie
from itemic.evaluate.seen import SeenItems, seen_items
from itemic.language.prompts import Renderer
from itemic.language.recency import are_newest
from itemic.language.tasks import TASKS, ItemTexts, Task, check_tasks
from itemic.train.rl.answers import AnswerTree, Question
from itemic.train.rl.titles import title_token_ids, title_tree

__all__ = ["QuestionBank", "QuestionRefs", "answer_trees", "check_question_tasks"]

log = logging.getLogger("itemic")


def check_question_tasks(weights: Mapping[str, float], mode: str) -> None:
    """Refuses tasks that RL cannot ask.

    Raises:
        ConfigError: for what ``check_tasks`` refuses, and for tasks whose answers are free text.
    """
    check_tasks(dict(weights), mode)
    for name in weights:
        if TASKS[name].answer == "description":
            raise ConfigError(
                f"tasks.{name}: its answers are free text, which has no tree to decode over and no reward; RL asks for "
                "semantic IDs and titles, leave it to supervised fine-tuning"
            )


def answer_trees(
    trie: Trie, dataset: Dataset, renderer: Renderer, weights: Mapping[str, float]
) -> dict[str, AnswerTree]:
    """Returns the answer trees that the tasks need, under ``sid`` and ``title``; both hold the catalog's items only.

    Args:
        trie: The catalog's semantic IDs.
        dataset: Holds the titles.
        renderer: Writes the answers.
        weights: The tasks.

    Raises:
        DataError: if a task asks for titles and there is none.
    """
    kinds = {TASKS[name].answer for name in weights}
    trees = {}
    if "sid" in kinds:
        trees["sid"] = AnswerTree.of_sids(trie, renderer.sid_tokens)
    if "title" in kinds:
        titles = title_token_ids(ItemTexts.from_items(dataset.items), renderer)
        is_active = (trie.slot_of_item >= 0).tolist()
        active = [title if there else [] for title, there in zip(titles, is_active, strict=True)]
        trees["title"] = title_tree(active, renderer.answer_end)
    return trees


@dataclass(frozen=True, eq=False)
class QuestionRefs:
    """Which n questions: the task of each, and which of the task's rows or items it is about."""

    task: Int[np.ndarray, "n"]
    """Index of the task."""
    row: Int[np.ndarray, "n"]
    """Row of the training split, or item index where the task is about an item."""

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, place: Int[np.ndarray, "m"] | slice) -> "QuestionRefs":
        return QuestionRefs(self.task[place], self.row[place])


class QuestionBank:
    """Every question that can be asked about one dataset."""

    def __init__(
        self,
        dataset: Dataset,
        renderer: Renderer,
        weights: Mapping[str, float],
        trees: Mapping[str, AnswerTree],
        *,
        max_history: int,
        newest_share: float = 1.0,
    ) -> None:
        """Finds what can be asked: a question needs its texts, and a target that is in the answer tree.

        Args:
            dataset: Only its training part and its items are asked about.
            renderer: Writes the prompts.
            weights: For each task how often an epoch asks each of its questions, on average: 0.5 a random half.
            trees: Of :func:`answer_trees`.
            max_history: Most items before a target.
            newest_share: Share of the training rows that history tasks ask about, the newest ones: by time, or by their
                order where a time is missing.

        Raises:
            ConfigError: for tasks that RL cannot ask or about which there is nothing to ask.
        """
        check_question_tasks(weights, renderer.mode)
        if max_history < 1:
            raise ConfigError(f"max_history: expected at least 1, found {max_history}")
        self._dataset, self._weights = dataset, dict(weights)
        self._tasks = [TASKS[name] for name in weights]
        self._trees = [trees[task.answer] for task in self._tasks]
        self._renderer = renderer
        self._max_history = max_history
        self._texts = ItemTexts.from_items(dataset.items)
        self._histories = dataset.train["history"]
        self._lengths = np.minimum(self._histories.list.len().to_numpy(), max_history)
        self._targets = dataset.train["target"].to_numpy()
        self._is_new = are_newest(dataset.train["timestamp"], newest_share)
        self._same_question: list[dict[int, tuple[int, ...]]] = [
            self._items_by_question(task) if task.unit == "item" else {} for task in self._tasks
        ]
        self._rows = [self._rows_to_ask(index) for index in range(len(self._tasks))]

    @property
    def task_names(self) -> list[str]:
        """Task names in the order of their indices."""
        return list(self._weights)

    def tree(self, task: int) -> AnswerTree:
        """Returns the tree in which a task's questions are answered."""
        return self._trees[task]

    def epoch(self, rng: np.random.Generator) -> QuestionRefs:
        """Returns an epoch's questions in random order; which ones a fractional weight picks is random too."""
        rows = [_draw(rows, weight, rng) for rows, weight in zip(self._rows, self._weights.values(), strict=True)]
        task = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
        return QuestionRefs(task, np.concatenate(rows))[rng.permutation(len(task))]

    def micro_batches(
        self, refs: QuestionRefs, size: int, rng: np.random.Generator, num_together: int = 1
    ) -> list[QuestionRefs]:
        """Returns questions cut into batches of at most ``size`` that are answered in one tree, in random order.

        Tasks that share a tree mix; each tree has one batch at most that is not full. Batches that are learned from
        together hold random questions, but each of them prompts of like length: a batch is filled up to its longest.

        Args:
            refs: Questions, shuffled.
            size: Most questions in a batch.
            rng: Orders the batches.
            num_together: Successive batches that are learned from together: a roll-out's.
        """
        kinds = sorted({task.answer for task in self._tasks})
        kind = np.array([kinds.index(task.answer) for task in self._tasks])[refs.task]
        batches = []
        for each in range(len(kinds)):
            of_tree = refs[np.flatnonzero(kind == each)]
            batches += [of_tree[start : start + size] for start in range(0, len(of_tree), size)]
        batches = [batches[place] for place in rng.permutation(len(batches))]
        starts = range(0, len(batches), num_together)
        return [batch for start in starts for batch in self._sort_by_length(batches[start : start + num_together])]

    def _sort_by_length(self, batches: list[QuestionRefs]) -> list[QuestionRefs]:
        """Returns batches of the same sizes with the same questions, dealt out by task, then by length of history.

        What is answered in one tree stays together. Where one task alone asks about a tree, its prompts are alike.
        """
        batches = list(batches)
        for tree in {id(tree): tree for tree in self._trees}.values():
            places = [place for place, batch in enumerate(batches) if self._trees[batch.task[0]] is tree]
            if not places or sum(each is tree for each in self._trees) == 1:
                continue
            task, row = (
                np.concatenate([getattr(batches[place], name) for place in places]) for name in ("task", "row")
            )
            is_history = np.array([each.unit == "history" for each in self._tasks])[task]
            length = np.where(is_history, self._lengths[np.where(is_history, row, 0)], 0)
            order = np.lexsort((length, task))
            bounds = np.cumsum([len(batches[place]) for place in places])[:-1]
            for place, chosen in zip(places, np.split(order, bounds), strict=True):
                batches[place] = QuestionRefs(task[chosen], row[chosen])
        return batches

    def ask(self, refs: QuestionRefs) -> list[Question]:
        """Returns the questions, their prompts rendered."""
        return [self._ask(task, row) for task, row in zip(refs.task.tolist(), refs.row.tolist(), strict=True)]

    def _ask(self, index: int, row: int) -> Question:
        task = self._tasks[index]
        if task.unit == "item":
            assert task.from_item is not None
            message = task.from_item(row, self._texts, self._renderer)
            assert message is not None, f"{task.name}: item {row} has no text"
            prompt = self._renderer.message_prompt(message)
            return Question(task=index, prompt=prompt, targets=self._same_question[index][row])
        history, target = self._histories[row].to_list()[-self._max_history :], int(self._targets[row])
        prompt = self._history_prompt(task, history, target)
        (seen,) = self._seen.lists(np.array([row]))
        return Question(task=index, prompt=prompt, history=history, targets=(target,), seen=seen)

    @functools.cached_property
    def _seen(self) -> SeenItems:
        """What the users of all training rows had before, as validation and evaluation exclude it."""
        return seen_items(self._dataset, self._dataset.train)

    def _history_prompt(self, task: Task, history: list[int], target: int) -> list[int]:
        if task.name == "next_item":
            return self._renderer.next_item_prompt(history)
        assert task.from_history is not None
        message = task.from_history(history, target, self._texts, self._renderer)
        assert message is not None, f"{task.name}: a text is missing"
        return self._renderer.message_prompt(message)

    def _items_by_question(self, task: Task) -> dict[int, tuple[int, ...]]:
        """Returns for each item with a text all items about which the same question would be asked.

        Titles and descriptions repeat in real catalogues (and semantic IDs in those that share them): whichever item
        the answer names is right.
        """
        assert task.from_item is not None
        items: dict[str, list[int]] = {}
        for item in range(len(self._texts.titles)):
            message = task.from_item(item, self._texts, self._renderer)
            if message is not None:
                items.setdefault(message.prompt, []).append(item)
        return {item: group for group in map(tuple, items.values()) for item in group}

    def _rows_to_ask(self, index: int) -> Int[np.ndarray, "n"]:
        """Returns the rows or items of a task's questions."""
        task, same = self._tasks[index], self._same_question[index]
        is_in_tree = self._trees[index].trie.slot_of_item.cpu().numpy() >= 0
        if task.unit == "history":
            rows = np.flatnonzero(self._has_texts(task) & self._is_new)
            is_answerable = is_in_tree[self._targets[rows]]
        else:
            rows = np.fromiter(same, dtype=np.int64, count=len(same))
            rows = rows[~cold_mask(self._dataset.items)[rows]]
            is_answerable = np.array([is_in_tree[list(same[row])].any() for row in same], dtype=bool)
        if not is_answerable.any():
            raise ConfigError(
                f"tasks.{task.name}: nothing to ask, for no item of the catalog has the texts it needs; leave it out"
            )
        if not is_answerable.all():
            log.warning(
                "rl: %s: %d of %d questions are left out, for the catalog no longer has what answers them",
                *(task.name, int((~is_answerable).sum()), len(rows)),
            )
        return np.asarray(rows[is_answerable])

    def _has_texts(self, task: Task) -> Bool[np.ndarray, "n"]:
        """Returns for which training rows a history task can be written."""
        has_title = np.array([bool(title) for title in self._texts.titles], dtype=bool)
        if task.name == "sids_to_title":
            return np.asarray(has_title[self._targets])
        if task.name == "next_item":
            return np.ones(len(self._targets), dtype=bool)
        is_answered = has_title[self._targets] if task.answer == "title" else np.ones(len(self._targets), dtype=bool)
        tails = self._histories.list.tail(self._max_history)
        lengths = tails.list.len().to_numpy()
        items = tails.filter(pl.Series(lengths > 0)).explode().to_numpy()
        with_title = np.repeat(np.arange(len(lengths)), lengths)[has_title[items]]
        return np.asarray(is_answered & (np.bincount(with_title, minlength=len(lengths)) > 0))


def _draw(rows: Int[np.ndarray, "n"], weight: float, rng: np.random.Generator) -> Int[np.ndarray, "m"]:
    """Returns every row ``weight`` times, the fraction by chance."""
    times, share = divmod(weight, 1.0)
    return np.concatenate([np.tile(rows, int(times)), rows[rng.random(len(rows)) < share]])
