"""Progress on stderr: a bar on a terminal, a line now and then elsewhere, nothing for short work."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["progress_bar", "setup_logging", "track"]

T = TypeVar("T")

log = logging.getLogger("itemic")

_SILENT_S = 2.0
_LINE_EVERY_S = 15.0


def setup_logging(*, verbose: bool = False) -> None:
    """Sends itemic's log lines to stderr, once; only the command line calls this, never the library."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


def track(items: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Yields ``items``, showing how far they are once two seconds have passed.

    Args:
        items: What to iterate.
        description: A few words, "embedding items" say.
        total: Number of items; taken from ``len(items)`` where it has one.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress_bar(description, total=total) as advance:
        for item in items:
            yield item
            advance(1, "")


@contextlib.contextmanager
def progress_bar(description: str, *, total: int | None) -> Iterator[Callable[[int, str], None]]:
    """Yields ``advance(steps, note)``; the bar appears after two seconds, so that short work stays silent."""
    if log.level > logging.INFO or not log.handlers:
        yield lambda steps, note: None
    elif sys.stderr.isatty():
        with _terminal_bar(description, total) as advance:
            yield advance
    else:
        with _plain_lines(description, total) as advance:
            yield advance


@contextlib.contextmanager
def _terminal_bar(description: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(description, total=total, note="")
    started, shown = time.monotonic(), False

    def advance(steps: int, note: str) -> None:
        nonlocal shown
        progress.update(task, advance=steps, note=note)
        if not shown and time.monotonic() - started > _SILENT_S:
            shown = True
            progress.start()

    try:
        yield advance
    finally:
        if shown:
            progress.stop()


@contextlib.contextmanager
def _plain_lines(description: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
    done, last_line = 0, time.monotonic() - _LINE_EVERY_S + _SILENT_S

    def advance(steps: int, note: str) -> None:
        nonlocal done, last_line
        done += steps
        if time.monotonic() - last_line > _LINE_EVERY_S:
            last_line = time.monotonic()
            log.info("%s: %s%s %s", description, done, f"/{total}" if total else "", note)

    yield advance
