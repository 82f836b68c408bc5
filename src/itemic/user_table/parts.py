"""Finished chunks beside the target, so that a killed run goes on where it stopped; knows no model and no user."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.files import atomic_path, read_json, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["PartFolder"]

log = logging.getLogger("itemic")

_FIGURES = b"itemic.figures"
_ROWS_PER_GROUP = 1 << 17
_HASH_LENGTH = 64


@dataclass(frozen=True)
class PartFolder:
    """A hidden folder ``.<target>.parts`` with a manifest, one Parquet file a finished chunk, and room for a source.

    Each file appears whole or not at all, so that what is there is done.
    """

    target: Path

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.target.with_name(f".{self.target.name}.parts")

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Makes the folder, and keeps every other process out of it while the block runs.

        A system without ``flock`` (Windows) has no lock: there it is for the caller to start no second process.

        Raises:
            ConfigError: if another process, or another thread, is at work on this target.
        """
        if fcntl is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
            return
        handle = self._lock()
        try:
            yield
        finally:
            os.close(handle)

    def open(self, identity: Mapping[str, Any], begun: Mapping[str, Any], *, restart: bool = False) -> dict[str, Any]:
        """Returns what the table was begun with: ``begun``, or that of the earlier run whose parts are kept.

        Args:
            identity: Everything that the parts follow from, as JSON-ready values. Parts of another making are only
                dropped where ``restart`` says so; where no part is done they are no loss, and a warning says why.
            begun: What an earlier run decides for all that go on with it: the moment that it started at, say.
            restart: Whether to throw away whatever there is.

        Raises:
            ConfigError: if there are finished parts of another making; it says what differs and the two ways on.
        """
        if not restart:
            earlier = self._read(self._manifest) or {"identity": {}}
            changes = _changes(earlier["identity"], json.loads(json.dumps(identity)))
            if not changes and "begun" in earlier:
                kept: dict[str, Any] = earlier["begun"]
                return kept
            self._refuse_to_drop(changes)
            if earlier["identity"]:
                log.warning("%s: begun otherwise (%s): starts over", self.target, changes)
        self._clear()
        write_json(self._manifest, {"identity": dict(identity), "begun": dict(begun)})
        return dict(begun)

    def source_folder(self) -> Path:
        """Returns a place for what a source keeps between runs; it need not exist."""
        return self.folder / "users"

    def survey(self) -> dict[str, int] | None:
        """Returns what an earlier look at all users found, None where there was none."""
        return self._read(self.folder / "survey.json")

    def write_survey(self, found: Mapping[str, int]) -> None:
        """Keeps what a look at all users found."""
        self._require_folder()
        write_json(self.folder / "survey.json", dict(found))

    def figures(self, number: int) -> dict[str, int] | None:
        """Returns the figures a part was written with, None where there is no such part."""
        try:
            metadata = pq.read_metadata(self._path(number)).metadata
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        figures: dict[str, int] = json.loads(metadata[_FIGURES])
        return figures

    def write(self, number: int, table: pa.Table, figures: Mapping[str, int]) -> None:
        """Writes one chunk's rows with its figures, atomically.

        Raises:
            ArtifactError: if the folder was removed meanwhile.
        """
        self._require_folder()
        with atomic_path(self._path(number)) as temporary:
            pq.write_table(
                table.replace_schema_metadata({_FIGURES: json.dumps(dict(figures))}), temporary, compression="zstd"
            )

    def assemble(self, num_parts: int, schema: pa.Schema) -> None:
        """Writes the target from its parts, atomically, and removes them.

        Args:
            num_parts: Number of parts; there may be none.
            schema: Columns of the target.
        """
        with (
            atomic_path(self.target) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            for table in self._row_groups(num_parts, schema):
                writer.write_table(table)
        self._clear()
        self._lock_file.unlink(missing_ok=True)
        # Another process may have begun anew since the lock is gone.
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _row_groups(self, num_parts: int, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yields the parts' rows, several small parts together."""
        waiting: list[pa.Table] = []
        for number in range(num_parts):
            waiting.append(pq.read_table(self._path(number)).cast(schema))
            if sum(table.num_rows for table in waiting) >= _ROWS_PER_GROUP:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def _lock_file(self) -> Path:
        return self.folder / "lock"

    def _lock(self) -> int:
        """Returns the open lock file, locked and still in its place: who holds it may remove folder and file."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                continue
            try:
                self._try_to_lock(handle)
                if os.fstat(handle).st_ino == self._lock_file.stat().st_ino:
                    return handle
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _try_to_lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{self.target}: another process is writing it; wait until it ends, or write to another file"
            ) from None
        except OSError as error:
            log.warning("%s: this file system has no locks (%s): start no second process on it", self.target, error)

    def _refuse_to_drop(self, changes: str) -> None:
        """Raises ConfigError if there are finished parts."""
        done = [self.figures(int(each.stem)) for each in self.folder.glob("[0-9]*.parquet")]
        num_users = sum(figures["num_users"] for figures in done if figures is not None)
        if num_users:
            raise ConfigError(
                f"{self.target}: {num_users:,} users are done, but begun otherwise: {changes}. Go on with the settings "
                "of then, or throw them away and begin anew with --restart (restart=True)"
            )

    def _require_folder(self) -> None:
        """Raises ArtifactError if the folder is gone: writing would make it again, with a part of the parts."""
        if not self._manifest.is_file():
            raise ArtifactError(f"{self.folder}: was removed while the table was being made; run it again")

    def _clear(self) -> None:
        """Removes everything but the lock."""
        for each in self.folder.iterdir():
            if each.is_dir():
                shutil.rmtree(each)
            elif each != self._lock_file:
                each.unlink()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.parquet"

    @staticmethod
    def _read(manifest: Path) -> dict[str, Any] | None:
        """Returns a file of an earlier run, None where there is none that can be read."""
        try:
            earlier: dict[str, Any] = read_json(manifest)
        except ArtifactError:
            return None
        return earlier


def _changes(earlier: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    keys = sorted(key for key in {*earlier, *identity} if earlier.get(key) != identity.get(key))
    return "; ".join(f"{key} was {_short(earlier.get(key))}, is {_short(identity.get(key))}" for key in keys)


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:12]}..." if len(text) == _HASH_LENGTH else text
