"""RecBole's atomic files: ``<name>.inter`` and ``<name>.item``, tab separated, with ``field:type`` in the header."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from itemic.core.errors import DataError
from itemic.data.columns import InteractionColumns, ItemColumns, check_time_format, make_interactions, make_items
from itemic.data.raw import RawLog
from itemic.data.reading import parse_delimited, read_bytes
from itemic.data.rejects import SourceRows

__all__ = ["RecboleConfig", "read", "read_atomic"]


@dataclass(frozen=True, kw_only=True)
class RecboleConfig:
    """A folder with one data set in RecBole's atomic files."""

    format: Literal["recbole"] = "recbole"
    """Names this source in a recipe."""
    path: str
    """The folder; its name, or else the only ``.inter`` file in it, tells the data set."""
    interaction_columns: InteractionColumns = field(default_factory=InteractionColumns)
    """Fields of the ``.inter`` file, without their types."""
    item_columns: ItemColumns = field(default_factory=lambda: ItemColumns(description=""))
    """Fields of the ``.item`` file, without their types."""
    time_format: str = "s"
    """How times are written: s, ms, us, ns or d (since 1970), iso, or a strptime pattern."""

    def __post_init__(self) -> None:
        check_time_format(self.time_format)

    def files(self) -> dict[str, Path]:
        """Returns the files to be read, by a short name.

        Raises:
            DataError: if the folder has none or several ``.inter`` files, or no ``.item`` file beside it.
        """
        log = _log_file(Path(self.path))
        items = log.with_suffix(".item")
        if not items.is_file():
            raise DataError(f"{items}: no such file; a catalogue with titles is needed")
        return {"interactions": log, "items": items}


def read(config: RecboleConfig) -> RawLog:
    """Returns the log and the catalogue of a folder of atomic files.

    Raises:
        DataError: if a file or field is missing.
    """
    files = config.files()
    log, items = read_atomic(files["interactions"]), read_atomic(files["items"])
    return RawLog(
        interactions=make_interactions(log, config.interaction_columns, config.time_format),
        items=make_items(items, config.item_columns),
    )


def read_atomic(path: Path) -> SourceRows:
    """Returns the rows of one atomic file, its fields named without their types.

    Raises:
        DataError: if the file is missing or empty.
    """
    source = parse_delimited(read_bytes(path), path.as_posix(), separator="\t", quoted=False)
    return replace(source, rows=source.rows.rename(lambda name: name.partition(":")[0]))


def _log_file(folder: Path) -> Path:
    named = folder / f"{folder.name}.inter"
    logs = [named] if named.is_file() else sorted(folder.glob("*.inter"))
    if len(logs) != 1:
        raise DataError(f"{folder}: expected one .inter file, found {len(logs)}")
    return logs[0]
