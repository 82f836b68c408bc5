"""Recommendations for everybody in a table: users in, Parquet out, chunk by chunk, and on again after a kill."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pyarrow as pa
from jaxtyping import Int

import itemic
from itemic.core.errors import ConfigError
from itemic.core.progress import progress_bar
from itemic.core.ranking import Recommendations
from itemic.data.lookup import ItemRows
from itemic.decode.conditions import Condition, Where, condition_key
from itemic.inference import TrainedRun
from itemic.user_table.answers import AnswerTable, Layout
from itemic.user_table.parts import PartFolder
from itemic.user_table.requests import Requests, UnknownItems
from itemic.user_table.source import ALL_USERS, Catalogue, UserSource, open_users

__all__ = ["TableSummary", "recommend_table"]

_BATCHES_PER_CALL = 4
_FIGURES = ("num_users", "num_recommendations", "num_short_users", "num_empty_histories", "num_dropped_items")


@dataclass(frozen=True, kw_only=True)
class TableSummary:
    """What a table of users got."""

    target: str
    """The file."""
    num_users: int
    """Rows of a table, users of a log."""
    num_recommendations: int
    """Recommendations of all users together."""
    num_short_users: int
    """Users with fewer than ``k``: fewer items are allowed, or fewer were reached."""
    num_empty_histories: int
    """Users without an item in their history, after unknown items were left out."""
    num_dropped_items: int
    """Unknown ids (and retired ones in allow lists) that were left out."""
    num_resumed_users: int
    """Users whose recommendations an earlier, killed run had finished."""
    wall_time_s: float
    """Seconds that this run took, reading and writing included."""


def recommend_table(
    trained: TrainedRun,
    source: Path | str,
    target: Path | str,
    *,
    k: int = 10,
    layout: Layout = "long",
    titles: bool = True,
    exclude_seen: bool | None = None,
    where: Where | None = (),
    unknown_items: UnknownItems = "error",
    chunk_rows: int = 1024,
    restart: bool = False,
) -> TableSummary:
    """Writes the best items for every user of a table into a Parquet file and returns what was counted.

    The file has ``user_id`` (as in the source), ``rank``, ``item_id``, ``title``, ``score`` (log-probability of the
    item's semantic ID given the history) and ``probability``. It appears when all users are done. Until then finished
    chunks lie in ``.<target>.parts`` beside it: the same call after a kill goes on with the first unfinished chunk
    and gives the same file, ``within`` counting back from the moment that the table was begun at. A call with another
    source, model or setting is refused while chunks are done. Memory follows ``chunk_rows`` and ``k``, not the number
    of users.

    Args:
        trained: The run.
        source: A Parquet file with a row a user: ``user_id``, ``history`` (list of item ids, oldest first, maybe
            empty), and if wanted ``exclude`` and ``allow`` (lists of item ids, null for a user without one). Or an
            interaction log as Parquet or CSV: ``user_id``, ``item_id``, ``timestamp``; a user's history is all of its
            rows by time, or as they come without one. Or ``"all"``: every user of the run's dataset, all interactions.
        target: The Parquet file to write.
        k: Number of items for each user.
        layout: ``long``, a row a recommendation, or ``lists``, a row a user.
        titles: Whether there is a title column.
        exclude_seen: Whether items of the history are left out; None does so where the dataset holds no repeats.
        where: A condition on the catalogue's columns, or several (``decode.conditions``), for every item.
        unknown_items: ``error``, or ``drop`` to leave out ids that no item has, and count them.
        chunk_rows: Users in a chunk, which is what a kill can lose. Users with histories of like length are put
            together within one.
        restart: Whether to throw away what an earlier call has finished of this target, and begin anew.

    Raises:
        DataError: if the source cannot be used; the message names file, row, user and item.
        ConfigError: if a setting cannot be honoured, finished chunks were made otherwise, or another process is writing
            the target.
    """
    started = time.perf_counter()
    settings: dict[str, Any] = {"k": k, "layout": layout, "titles": titles, "exclude_seen": exclude_seen}
    conditions = [where] if isinstance(where, str | pl.Expr) else list(where or ())
    settings |= {"where": list(map(condition_key, conditions)), "unknown_items": unknown_items}
    settings["chunk_rows"] = chunk_rows
    _check(source, Path(target), settings)
    items = trained.dataset.items
    # A condition that cannot be understood shows before the table is read, not after.
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    asked = trained
    if conditions:
        asked = trained.at(now)
        asked.recommender.check_where(conditions)
    catalogue = Catalogue(items=ItemRows(items["item_id"]), active=trained.catalog.active, unknown_items=unknown_items)
    users = open_users(source, trained.dataset, catalogue)
    answers = AnswerTable(
        item_ids=_texts(items["item_id"]),
        titles=_texts(items["title"].fill_null("")) if titles else None,
        user_type=users.user_type,
        layout=layout,
        probabilities=trained.probabilities,
    )
    parts = PartFolder(Path(target))
    identity = {"itemic": itemic.__version__, **trained.identity, **users.identity(), **settings}
    # What a table is made of is the format that the layers took, not the one asked for: a probe may have decided.
    identity["dtype"] = trained.precision
    with parts.hold():
        begun = parts.open(identity, {"now": now.isoformat()}, restart=restart)
        if conditions and begun["now"] != now.isoformat():
            asked = trained.at(datetime.fromisoformat(begun["now"]))
        job = _Job(asked, users, parts, answers, k, exclude_seen, conditions, chunk_rows)
        num_parts, num_resumed, counted = job.fill(job.num_users())
        parts.assemble(num_parts, answers.schema)
    wall_time_s = round(time.perf_counter() - started, 3)
    return TableSummary(target=str(target), num_resumed_users=num_resumed, wall_time_s=wall_time_s, **counted)


@dataclass(frozen=True, eq=False)
class _Job:
    """One table on its way."""

    trained: TrainedRun
    users: UserSource
    parts: PartFolder
    answers: AnswerTable
    k: int
    exclude_seen: bool | None
    where: list[Condition]
    chunk_rows: int

    def num_users(self) -> int:
        """Returns the number of users after every cell was looked at: a mistake shows now, not hours later."""
        found = self.parts.survey()
        if found is None:
            self.users.get_ready(self.parts.source_folder())
            found = {"num_users": sum(map(len, self._requests()))}
            self.parts.write_survey(found)
        return found["num_users"]

    def fill(self, num_users: int) -> tuple[int, int, dict[str, int]]:
        """Makes every part that is not there; returns their number, how many users were there, and all figures."""
        counted = dict.fromkeys(_FIGURES, 0)
        number, num_resumed = -1, 0
        with progress_bar("recommending", total=num_users) as advance:
            report = _with_rate(advance)
            for number, requests in enumerate(self._requests()):
                figures = self.parts.figures(number)
                if figures is None:
                    figures = self._make_part(number, requests, report)
                else:
                    num_resumed += len(requests)
                    advance(len(requests), "done before")
                counted = {name: count + figures[name] for name, count in counted.items()}
        return number + 1, num_resumed, counted

    def _requests(self) -> Iterator[Requests]:
        return self.users.requests(self.chunk_rows, self.parts.source_folder())

    def _make_part(self, number: int, requests: Requests, report: Callable[[int], None]) -> dict[str, int]:
        lists = self._recommend(number * self.chunk_rows, requests, report)
        num_items = (lists.item_index >= 0).sum(axis=1)
        figures = {
            "num_users": len(requests),
            "num_recommendations": int(num_items.sum()),
            "num_short_users": int((num_items < self.k).sum()),
            "num_empty_histories": int((requests.history.length == 0).sum()),
            "num_dropped_items": requests.num_dropped,
        }
        self.parts.write(number, self.answers.make(requests.user_id, lists), figures)
        return figures

    def _recommend(self, first: int, requests: Requests, report: Callable[[int], None]) -> Recommendations:
        """Returns the lists of one chunk: users with like histories in one call, with and without allow lists apart.

        Args:
            first: Number of the chunk's first user in the table.
            requests: The chunk.
            report: Takes the number of users that were finished.
        """
        item_index = np.full((len(requests), self.k), -1, dtype=np.int64)
        score = np.full((len(requests), self.k), -np.inf)
        num_tied_beyond = np.zeros(len(requests), dtype=np.int64)
        order = np.lexsort((requests.history.length, requests.has_allow))
        num_plain = len(requests) - int(requests.has_allow.sum())
        for group in (order[:num_plain], order[num_plain:]):
            for users in _in_calls(group, _BATCHES_PER_CALL * self.trained.recommender.batch_size):
                lists = self._ask(first, requests, users)
                item_index[users], score[users] = lists.item_index, lists.score
                num_tied_beyond[users] = lists.num_tied_beyond
                report(len(users))
        return Recommendations(item_index=item_index, score=score, num_tied_beyond=num_tied_beyond)

    def _ask(self, first: int, requests: Requests, users: Int[np.ndarray, "b"]) -> Recommendations:
        histories = requests.history.select(users)
        exclude = requests.exclude.select(users)
        allow = requests.allow.select(users) if requests.has_allow[users[0]] else None
        where = [self.where] * len(users) if self.where else None
        # Thoughts are drawn by the user's number in the table: neither calls nor batches change them.
        rows = (first + users).tolist()
        if self.exclude_seen is None:
            return self.trained.recommend_many(histories, self.k, exclude, allow, where, rows=rows)
        if self.exclude_seen:
            exclude = [[*items, *past] for items, past in zip(exclude, histories, strict=True)]
        return self.trained.recommender.recommend(histories, self.k, exclude, allow, where=where, rows=rows)


def _with_rate(advance: Callable[[int, str], None]) -> Callable[[int], None]:
    """Returns a report of finished users that notes how many were finished a second."""
    started, num_done = time.perf_counter(), 0

    def report(num_users: int) -> None:
        nonlocal num_done
        num_done += num_users
        advance(num_users, f"{num_done / (time.perf_counter() - started):.3g} users/s")

    return report


def _in_calls(users: Int[np.ndarray, "n"], size: int) -> Iterator[Int[np.ndarray, "b"]]:
    return (users[first : first + size] for first in range(0, len(users), size))


def _texts(values: pl.Series) -> pa.Array:
    # 64-bit offsets: the titles of a large catalogue are more than 2 GiB.
    return values.to_arrow().cast(pa.large_string())


def _check(source: Path | str, target: Path, settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for a setting that cannot be honoured."""
    for name in ("k", "chunk_rows"):
        if settings[name] < 1:
            raise ConfigError(f"{name} must be at least 1, found {settings[name]}")
    for name, choices in (("layout", get_args(Layout)), ("unknown_items", get_args(UnknownItems))):
        if settings[name] not in choices:
            raise ConfigError(f"{name} {settings[name]!r}: expected {' or '.join(choices)}")
    if target.suffix != ".parquet":
        raise ConfigError(f"{target}: recommendations are written as Parquet; expected a name ending in .parquet")
    if target.is_dir():
        raise ConfigError(f"{target}: is a folder; expected the name of a file to write")
    if source != ALL_USERS and Path(source).resolve() == target.resolve():
        raise ConfigError(f"{target}: is the table of users itself; write the recommendations elsewhere")
