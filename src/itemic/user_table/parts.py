"""Finished chunks beside the target, so that a killed run goes on where it stopped; knows no model and no user."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from itemic.core.errors import ArtifactError
from itemic.core.files import atomic_path, read_json, write_json

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

    def open(self, identity: Mapping[str, Any]) -> None:
        """Makes the folder, or keeps it if its parts are of the same making; says so where they are not.

        Args:
            identity: Everything that the parts follow from, as JSON-ready values.
        """
        manifest = self.folder / "manifest.json"
        earlier = self._read(manifest)
        if earlier == json.loads(json.dumps(identity)):
            return
        if earlier is not None:
            log.warning("%s: begun otherwise (%s): starts over", self.target, _changes(earlier, identity))
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        write_json(manifest, dict(identity))

    def source_folder(self) -> Path:
        """Returns a place for what a source keeps between runs; it need not exist."""
        return self.folder / "users"

    def survey(self) -> dict[str, int] | None:
        """Returns what an earlier look at all users found, None where there was none."""
        return self._read(self.folder / "survey.json")

    def write_survey(self, found: Mapping[str, int]) -> None:
        """Keeps what a look at all users found."""
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
        """Writes one chunk's rows with its figures, atomically."""
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
        shutil.rmtree(self.folder)

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

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.parquet"

    @staticmethod
    def _read(manifest: Path) -> dict[str, Any] | None:
        """Returns the manifest of an earlier run, None where there is none that can be read."""
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
