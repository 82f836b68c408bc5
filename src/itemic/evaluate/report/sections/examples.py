"""Example users: what they had, what was recommended with which probability, and what they took next."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool

from itemic.core.dataset import Dataset
from itemic.core.errors import ArtifactError
from itemic.core.page.formats import shorten, write_count, write_number, write_percent
from itemic.evaluate.report.artifacts import RunArtifacts
from itemic.evaluate.report.focus import Standing
from itemic.evaluate.report.hits import are_log_probabilities, hit_probability
from itemic.evaluate.report.sections.parts import Missing
from itemic.language.spelling import Spelling
from itemic.sid.catalog import Catalog

__all__ = ["Code", "Example", "ExamplesSection", "Item", "Listed", "choose_examples", "describe_examples"]

_TITLE_CHARACTERS = 100
_DETAIL_CHARACTERS = 160


@dataclass(frozen=True, kw_only=True)
class Code:
    """One token of a semantic ID."""

    token: str
    is_shared: bool
    """Whether this and all codes before it are also those of the truth."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """An item as a reader sees it."""

    title: str
    detail: str
    """Start of the description; empty without one."""
    sid: tuple[Code, ...]
    """Empty without a catalog."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A recommended item."""

    rank: int
    item: Item
    score: str
    """Probability, or score where scores are none."""
    width: float
    """Length of its bar, 0 to 1: relative to the first."""
    is_truth: bool


@dataclass(frozen=True, kw_only=True)
class Example:
    """One test example."""

    number: int
    user_id: str
    is_hit: bool
    history: tuple[Item, ...]
    """The last items, oldest first."""
    num_earlier: int
    """Items before those."""
    listed: tuple[Listed, ...]
    truth: Item
    truth_rank: str
    """Where the focus ranked the truth: ``3``, ``4–7`` in a tie, ``after 50``."""
    other_ranks: tuple[tuple[str, str], ...]
    """The same of the other recommenders, by name."""


@dataclass(frozen=True, kw_only=True)
class ExamplesSection:
    """Example users."""

    focus: str
    score_name: str
    """``probability`` or ``score``."""
    hit_share: str
    """Share of hits among all examples; among those shown it is about half."""
    cutoff: int
    examples: tuple[Example, ...]


def describe_examples(
    artifacts: RunArtifacts,
    place: Standing | None,
    *,
    cutoff: int,
    num_examples: int,
    num_history: int,
    rng: np.random.Generator,
) -> ExamplesSection | Missing:
    """Returns the section, or what is missing for it.

    Args:
        artifacts: The run.
        place: Whose lists to show.
        cutoff: Length of the lists shown; a target within is a hit.
        num_examples: How many, half of them hits where there are enough.
        num_history: How many of the last history items to show.
        rng: Draws the examples.

    Raises:
        ArtifactError: if the lists are of other examples than the dataset's.
    """
    if artifacts.dataset is None:
        return Missing.of("dataset/", "prepare")
    if place is None or artifacts.metrics is None or place.focus not in artifacts.rankings:
        return Missing.of("rankings/", "evaluate")
    table = artifacts.rankings[place.focus]
    hits = hit_probability(table, cutoff) >= 0.5
    examples = _join_histories(table, artifacts.dataset.split(artifacts.metrics["protocol"]["split"]))
    others = {
        name: artifacts.rankings[name] for name in place.order if name in artifacts.rankings and name != place.focus
    }
    is_probability = are_log_probabilities(table)
    writer = _Writer(artifacts.dataset, artifacts.catalog, cutoff, num_history, is_probability)
    rows = choose_examples(hits, num_examples, rng)
    return ExamplesSection(
        focus=place.focus,
        score_name="probability" if is_probability else "score",
        hit_share=write_percent(float(hits.mean())),
        cutoff=cutoff,
        examples=tuple(
            writer.example(number, examples.row(row, named=True), bool(hits[row]), others)
            for number, row in enumerate(rows, start=1)
        ),
    )


def choose_examples(hits: Bool[np.ndarray, "B"], count: int, rng: np.random.Generator) -> list[int]:
    """Returns row numbers drawn at random: half hits and half misses, hits first; more of one where the other is short.

    Args:
        hits: Whether each example is one.
        count: How many to draw; fewer where there are fewer.
        rng: Draws.
    """
    yes, no = rng.permutation(np.flatnonzero(hits)), rng.permutation(np.flatnonzero(~hits))
    num_yes = min(len(yes), max((count + 1) // 2, count - len(no)))
    num_no = min(len(no), count - num_yes)
    return [*yes[:num_yes].tolist(), *no[:num_no].tolist()]


def _join_histories(table: pl.DataFrame, split: pl.DataFrame) -> pl.DataFrame:
    joined = table.join(split.select("example_id", "history"), on="example_id", how="left", maintain_order="left")
    if joined["history"].null_count():
        lost = joined.filter(pl.col("history").is_null())["example_id"][0]
        raise ArtifactError(f"rankings hold example {lost}, which the dataset does not have; run itemic evaluate again")
    return joined


@dataclass(frozen=True)
class _Writer:
    """Turns rows of numbers into what a reader sees."""

    dataset: Dataset
    catalog: Catalog | None
    cutoff: int
    num_history: int
    is_probability: bool

    def example(self, number: int, row: Mapping[str, Any], is_hit: bool, others: Mapping[str, pl.DataFrame]) -> Example:
        """Returns one example."""
        history, target = row["history"], row["target"]
        return Example(
            number=number,
            user_id=row["user_id"],
            is_hit=is_hit,
            history=tuple(self.item(item, target) for item in history[-self.num_history :]),
            num_earlier=max(0, len(history) - self.num_history),
            listed=tuple(self._listed(row)),
            truth=self.item(target, target),
            truth_rank=_write_rank(row),
            other_ranks=tuple((name, _find_rank(table, row["example_id"])) for name, table in others.items()),
        )

    def item(self, item: int, target: int) -> Item:
        """Returns an item, with the codes that it shares with the target marked."""
        found = self.dataset.items.row(item, named=True)
        return Item(
            title=shorten(found["title"] or found["item_id"], _TITLE_CHARACTERS),
            detail=shorten(found["description"] or "", _DETAIL_CHARACTERS),
            sid=self._sid(item, target),
        )

    def _sid(self, item: int, target: int) -> tuple[Code, ...]:
        if self.catalog is None:
            return ()
        spelling = Spelling.of(self.catalog.spelling, self.catalog.codebook_sizes)
        codes, wanted = self.catalog.codes[item], self.catalog.codes[target]
        shared = np.logical_and.accumulate(codes == wanted)
        return tuple(
            Code(token=spelling.token(level, int(code)), is_shared=bool(shared[level]))
            for level, code in enumerate(codes)
        )

    def _listed(self, row: Mapping[str, Any]) -> Iterator[Listed]:
        pairs = [pair for pair in zip(row["items"], row["scores"], strict=True) if pair[0] >= 0][: self.cutoff]
        widths = _bar_widths([score for _, score in pairs], self.is_probability)
        for rank, ((item, score), width) in enumerate(zip(pairs, widths, strict=True), start=1):
            yield Listed(
                rank=rank,
                item=self.item(item, row["target"]),
                score=write_percent(math.exp(score)) if self.is_probability else write_number(score),
                width=width,
                is_truth=item == row["target"],
            )


def _bar_widths(scores: Sequence[float], is_probability: bool) -> list[float]:
    """Returns bar lengths up to 1: probabilities relative to the first, other scores between lowest and highest."""
    if not scores:
        return []
    if is_probability:
        return [math.exp(score - scores[0]) for score in scores]
    lowest, span = min(scores), max(scores) - min(scores)
    return [0.05 + 0.95 * (score - lowest) / span if span else 1.0 for score in scores]


def _find_rank(table: pl.DataFrame, example_id: int) -> str:
    found = table.filter(pl.col("example_id") == example_id)
    return _write_rank(found.row(0, named=True)) if found.height else "not ranked"


def _write_rank(row: Mapping[str, Any]) -> str:
    first, num_tied = row["num_better"] + 1, row["num_tied"]
    if num_tied == 0:
        return f"after {write_count(row['num_better'])}"
    return write_count(first) if num_tied == 1 else f"{write_count(first)}–{write_count(first + num_tied - 1)}"
