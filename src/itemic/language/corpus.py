"""What one epoch of training looks like: groups of examples of every task, in random order.

Next-item learning has two forms. With sid-only prompts a user's training sequence is cut into windows and every
position of a window is learned (a continuation). With chat prompts, and for validation, each example keeps its own
prompt, and a user's examples form one group so that packing shares their prefixes.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from itemic.core.dataset import Dataset, cold_mask
from itemic.core.errors import ConfigError
from itemic.language.augment import AugmentConfig, augmented
from itemic.language.packing import Group
from itemic.language.prompts import Renderer, TokenExample
from itemic.language.recency import RecencyConfig, sequence_ages
from itemic.language.tasks import TASKS, ItemTexts, Task, check_tasks

__all__ = ["Corpus", "example_groups", "windows"]


def windows(length: int, max_history: int, stride: int, offset: int) -> list[tuple[int, int, int]]:
    """Returns windows ``(start, stop, first_label)`` of a sequence; every position is a label exactly once.

    A window holds at most ``max_history + 1`` items, so its last label sees ``max_history`` items and, but for
    the sequence's beginning, its first label sees at least ``max_history + 1 - stride``.

    Args:
        length: Number of items of the sequence.
        max_history: Most items before a label.
        stride: Labels in a full window, at most ``max_history``.
        offset: Moves the cuts, in ``[0, stride)``: other contexts each epoch.
    """
    size = max_history + 1
    if length <= size:
        return [(0, length, 0)] if length else []
    cuts = [length]
    while cuts[-1] > size:
        step = stride - offset if len(cuts) == 1 and offset else stride
        cuts.append(cuts[-1] - step)
    stops = cuts[::-1]
    starts = [max(0, stop - size) for stop in stops]
    labels = [0, *stops[:-1]]
    return [(start, stop, label - start) for start, stop, label in zip(starts, stops, labels, strict=True)]


def example_groups(
    table: pl.DataFrame, task: Task, task_index: int, texts: ItemTexts, renderer: Renderer
) -> list[Group]:
    """Returns one group a user with the user's examples of a history task, each with its own prompt."""
    groups = []
    for _, rows in table.group_by("user_id", maintain_order=True):
        examples = [
            example
            for history, target in zip(rows["history"].to_list(), rows["target"].to_list(), strict=True)
            if (example := _history_example(task, history, target, texts, renderer)) is not None
        ]
        if examples:
            groups.append(Group(examples, task_index))
    return groups


def _history_example(
    task: Task, history: Sequence[int], target: int, texts: ItemTexts, renderer: Renderer
) -> TokenExample | None:
    if task.name == "next_item":
        return renderer.next_item_example(history, target)
    assert task.from_history is not None
    message = task.from_history(history, target, texts, renderer)
    return None if message is None else renderer.example(message)


class Corpus:
    """All tasks of a training run over one dataset."""

    def __init__(
        self,
        dataset: Dataset,
        renderer: Renderer,
        weights: Mapping[str, float],
        *,
        max_history: int,
        stride: int,
        augment: AugmentConfig | None = None,
        recency: RecencyConfig | None = None,
    ) -> None:
        """Checks the tasks.

        Args:
            dataset: Only its training part is taught.
            renderer: Writes the prompts.
            weights: For each task how often an epoch shows each of its examples, on average: 0.5 a random half.
            max_history: Most items before a label.
            stride: Labels in a full window of a continuation, 1 to ``max_history``.
            augment: How continuations are perturbed; None leaves them as they are.
            recency: How newer targets of continuations are favoured; None favours none.

        Raises:
            ConfigError: for tasks that do not exist or that the mode cannot write, and where something is perturbed or
                favoured but the mode has no continuations.
        """
        check_tasks(dict(weights), renderer.mode)
        if not 1 <= stride <= max_history:
            raise ConfigError(f"stride must lie in 1..max_history ({max_history}), found {stride}")
        self.dataset = dataset
        self.renderer = renderer
        self.weights = dict(weights)
        self.max_history = max_history
        self.stride = stride
        self._texts = ItemTexts.from_items(dataset.items)
        self._sequences = list(dataset.train_sequences().values())
        self._augment = None if augment is None or augment.is_idle else augment
        self._ages = None if recency is None or recency.is_idle else sequence_ages(dataset, recency)
        if renderer.mode != "sid-only" and (self._augment or self._ages is not None):
            raise ConfigError(
                "augment and recency need sid-only prompts, those of a decoder from scratch without words"
            )

    @property
    def task_names(self) -> list[str]:
        """Task names in the order of their indices."""
        return list(self.weights)

    def epoch(self, rng: np.random.Generator, *, newest_only: bool = False) -> list[Group]:
        """Returns an epoch's groups in random order; which examples a fractional weight picks is random too.

        Args:
            rng: Decides order, samples and perturbations.
            newest_only: Whether only the newest targets are taught; needs ``recency``.
        """
        groups = [
            group
            for index, name in enumerate(self.weights)
            for group in self._task_groups(index, name, rng, newest_only)
        ]
        return [groups[position] for position in rng.permutation(len(groups))]

    def validation(self, max_examples: int = 0) -> list[Group]:
        """Returns examples of the validation split, each with its own prompt.

        They are of the task next_item; where it is not taught, of the first history task that is.

        Args:
            max_examples: Takes evenly spaced ones where there are more; 0 takes all.
        """
        of_histories = [name for name in self.weights if TASKS[name].unit == "history"]
        name = "next_item" if "next_item" in self.weights or not of_histories else of_histories[0]
        index = self.task_names.index(name) if name in self.weights else 0
        valid = self.dataset.valid.with_columns(pl.col("history").list.tail(self.max_history))
        if 0 < max_examples < valid.height:
            valid = valid[np.linspace(0, valid.height - 1, max_examples).astype(np.int64).tolist()]
        return example_groups(valid, TASKS[name], index, self._texts, self.renderer)

    def _task_groups(self, index: int, name: str, rng: np.random.Generator, newest_only: bool) -> Iterator[Group]:
        task, weight = TASKS[name], self.weights[name]
        for repeat in range(int(np.ceil(weight))):
            share = min(1.0, weight - repeat)
            if name == "next_item" and self.renderer.mode == "sid-only":
                yield from self._continuations(index, share, rng, newest_only)
            elif task.unit == "history":
                train = self.dataset.train.with_columns(pl.col("history").list.tail(self.max_history))
                yield from example_groups(_sample(train, share, rng), task, index, self._texts, self.renderer)
            else:
                yield from self._item_groups(task, index, share, rng)

    def _continuations(self, index: int, share: float, rng: np.random.Generator, newest_only: bool) -> Iterator[Group]:
        for number, sequence in enumerate(self._sequences):
            offset = int(rng.integers(self.stride))
            if share < 1 and rng.random() >= share:
                continue
            place, is_target, weight = self._lesson(number, rng, newest_only)
            for start, stop, first_label in windows(len(place), self.max_history, self.stride, offset):
                if is_target[start + first_label : stop].any():
                    example = self.renderer.continuation(
                        [sequence[each] for each in place[start:stop]],
                        first_label,
                        is_target=is_target[start:stop],
                        weight=None if weight is None else weight[start:stop],
                    )
                    yield Group([example], index)

    def _lesson(
        self, number: int, rng: np.random.Generator, newest_only: bool
    ) -> tuple[Int[np.ndarray, "m"], Bool[np.ndarray, "m"], Float[np.ndarray, "m"] | None]:
        """Returns which items of a sequence are shown, in order, which of them are targets, and what each counts."""
        length = len(self._sequences[number])
        place, is_target = np.arange(length), np.ones(length, dtype=bool)
        if self._augment:
            place, is_target = augmented(length, self._augment, rng)
        if self._ages is None:
            return place, is_target, None
        ages = self._ages[number]
        if newest_only:
            return place, is_target & ages.is_new[place], ages.newest_weight[place]
        return place, is_target, ages.weight[place]

    def _item_groups(self, task: Task, index: int, share: float, rng: np.random.Generator) -> Iterator[Group]:
        assert task.from_item is not None
        for item in np.flatnonzero(~cold_mask(self.dataset.items)).tolist():
            if share < 1 and rng.random() >= share:
                continue
            message = task.from_item(item, self._texts, self.renderer)
            if message is not None:
                yield Group([self.renderer.example(message)], index)


def _sample(table: pl.DataFrame, share: float, rng: np.random.Generator) -> pl.DataFrame:
    return table if share >= 1 else table.filter(pl.Series(rng.random(table.height) < share))
