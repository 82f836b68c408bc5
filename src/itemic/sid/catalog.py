"""The Catalog: which item carries which semantic ID, with lookup both ways, growth, files and a version.

Knows nothing of how the codes were found (quantizers, collisions) or of how they are spelled as text: the name of
the spelling is only kept beside them.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from itemic.core.errors import ArtifactError, CatalogError
from itemic.core.files import read_json, write_json, write_parquet
from itemic.sid.order import lexicographic_order, run_starts

__all__ = ["Ancestor", "Catalog"]

_FORMAT = 1
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """A catalog that another one grew from, by items added and items removed."""

    version: str
    """Its version."""
    num_items: int
    """Its number of items, removed ones included."""
    num_active: int
    """Its number of items that could be recommended."""


class Catalog:
    """The item-to-SID table: fixed-length codes, unique unless the catalog was made to share them.

    A catalog never changes: ``append`` and ``remove`` return another one in which every earlier item keeps its row
    and its codes. A removed item keeps its SID for ever, so that old histories and logs stay readable, but is no
    longer found by it. Equal catalogs have equal versions, whatever they grew from.
    """

    def __init__(
        self,
        codes: Int[np.ndarray, "N L"],
        item_ids: Sequence[str],
        codebook_sizes: Sequence[int],
        active: Bool[np.ndarray, "N"] | None = None,
        shares: bool = False,
        spelling: str = "plain",
        parents: Sequence[Ancestor] = (),
        refit_of: str | None = None,
        before_refit: Sequence[Ancestor] = (),
    ) -> None:
        """Checks and keeps the table.

        Args:
            codes: SID of each item, coarse first; row i is item_index i.
            item_ids: The user's id of each item.
            codebook_sizes: Number of codes of each level.
            active: Whether an item can still be recommended; all of them by default.
            shares: Whether items may share a SID.
            spelling: How the SIDs are written as text, "plain" or "wrapped".
            parents: The catalogs that this one grew from, newest first; no part of what the version says.
            refit_of: Version of the catalog whose items the first of this line coded anew; no part of the version.
            before_refit: That one and all that it came from, by growth and by earlier refits, newest first; no part of
                the version.

        Raises:
            CatalogError: as ``check_integrity``.
        """
        self.codes = _frozen(np.array(codes, dtype=np.int64))
        self.item_ids = tuple(item_ids)
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.active = _frozen(np.ones(len(self.codes), dtype=bool) if active is None else np.array(active, dtype=bool))
        self.shares = shares
        self.spelling = spelling
        self.parents = tuple(parents)
        self.refit_of = refit_of
        self.before_refit = tuple(before_refit)
        self.check_integrity()

    def __len__(self) -> int:
        return len(self.codes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catalog) and self.version == other.version

    def __hash__(self) -> int:
        return hash(self.version)

    def __repr__(self) -> str:
        return f"Catalog({len(self)} items, codebook sizes {self.codebook_sizes}, version {self.version[:12]})"

    @property
    def num_items(self) -> int:
        """Number of items N, removed ones included."""
        return len(self.codes)

    @property
    def num_active(self) -> int:
        """Number of items that can be recommended."""
        return int(self.active.sum())

    @property
    def num_levels(self) -> int:
        """Number of codes L of every SID."""
        return len(self.codebook_sizes)

    @functools.cached_property
    def version(self) -> str:
        """SHA-256 of everything the catalog says: codes, item ids, sizes, activity, sharing and spelling.

        ``core.files.text_hash`` of these as texts, the arrays as hexadecimal digits, but fed in pieces: the digits of
        ten million items would take gigabytes.
        """
        sizes = ",".join(map(str, self.codebook_sizes))
        digest = hashlib.sha256()
        _feed_texts(digest, [str(_FORMAT), self.spelling, str(self.shares), sizes])
        _feed_hex(digest, self.codes, "<i8")
        _feed_hex(digest, self.active, "?")
        _feed_texts(digest, self.item_ids)
        return digest.hexdigest()

    def descends_from(self, version: str) -> bool:
        """Returns whether it is that catalog or grew from it: every item of that one has its row and SID here."""
        return self.version == version or self.ancestor(version) is not None

    def ancestor(self, version: str) -> Ancestor | None:
        """Returns the catalog of a version that this one grew from, None if it did not."""
        return next((parent for parent in self.parents if parent.version == version), None)

    def refitted(self, codes: Int[np.ndarray, "N M"], codebook_sizes: Sequence[int], *, shares: bool) -> "Catalog":
        """Returns a catalog of the same items, active and removed, with other codes: a line of its own.

        It says what it is a refit of, and what that one came from.

        Args:
            codes: New SIDs of all items.
            codebook_sizes: Number of codes of each level.
            shares: Whether items may share a SID.

        Raises:
            CatalogError: as ``check_integrity``.
        """
        return Catalog(
            codes=codes,
            item_ids=self.item_ids,
            codebook_sizes=codebook_sizes,
            active=self.active,
            shares=shares,
            spelling=self.spelling,
            refit_of=self.version,
            before_refit=(self._as_ancestor(), *self.parents, *self.before_refit),
        )

    def sid(self, item_index: int) -> tuple[int, ...]:
        """Returns the SID of an item, removed ones included.

        Raises:
            CatalogError: if there is no such row.
        """
        self._check_rows([item_index])
        return tuple(self.codes[item_index].tolist())

    def items(self, sid: Sequence[int]) -> list[int]:
        """Returns the active items that carry ``sid``, in row order; none if nobody does.

        Raises:
            CatalogError: if ``sid`` has another length.
        """
        if len(sid) != self.num_levels:
            raise CatalogError(f"SID {tuple(sid)} has {len(sid)} codes, expected {self.num_levels}")
        order, codes = self._sorted
        first, last = 0, len(codes)
        for level, code in enumerate(sid):
            column = codes[first:last, level]
            low, high = np.searchsorted(column, code), np.searchsorted(column, code, side="right")
            first, last = first + int(low), first + int(high)
        rows = order[first:last]
        found: list[int] = rows[self.active[rows]].tolist()
        return found

    def item(self, sid: Sequence[int]) -> int:
        """Returns the one active item that carries ``sid``.

        Raises:
            CatalogError: if nobody carries it or several items share it (then ask ``items``).
        """
        found = self.items(sid)
        if len(found) != 1:
            carriers = f"is shared by items {found}" if found else "belongs to no active item"
            raise CatalogError(f"SID {tuple(sid)} {carriers}")
        return found[0]

    def append(self, item_ids: Sequence[str], codes: Int[np.ndarray, "n L"]) -> "Catalog":
        """Returns a catalog with further items after the present ones, whose rows and codes do not change.

        Args:
            item_ids: Ids that the catalog does not know yet, removed items included.
            codes: Their SIDs; ``resolve_unique(..., taken=catalog.codes)`` makes free ones.

        Raises:
            CatalogError: as ``check_integrity``, for a SID that is taken say.
        """
        if codes.ndim != 2 or codes.shape[1] != self.num_levels:
            raise CatalogError(f"codes to append have shape {codes.shape}, expected (n, {self.num_levels})")
        return self._with(
            codes=np.concatenate([self.codes, codes]),
            item_ids=[*self.item_ids, *item_ids],
            active=np.concatenate([self.active, np.ones(len(codes), dtype=bool)]),
        )

    def remove(self, item_indices: Sequence[int]) -> "Catalog":
        """Returns a catalog in which these items are no longer active; no row moves and no SID becomes free.

        Raises:
            CatalogError: if there is no such row.
        """
        self._check_rows(item_indices)
        active = self.active.copy()
        active[np.asarray(item_indices, dtype=np.int64)] = False
        return self._with(active=active)

    def check_fits(self, item_ids: Sequence[str]) -> None:
        """Raises unless the catalog begins with exactly these items; it may have grown since.

        Args:
            item_ids: Ids of the dataset's items, in their order.

        Raises:
            ArtifactError: if an item is another one or missing.
        """
        if self.item_ids[: len(item_ids)] != tuple(item_ids):
            raise ArtifactError("catalog/ was made for other items than dataset/; run itemic tokenize again")

    def check_integrity(self) -> None:
        """Raises unless the table is a catalog.

        Raises:
            CatalogError: for a wrong shape, a code outside its codebook, a repeated item id, or a SID that two
                items carry in a catalog that does not share.
        """
        if self.codes.ndim != 2 or self.codes.shape[1] != self.num_levels or self.num_levels == 0:
            raise CatalogError(
                f"codes of shape {self.codes.shape} do not fit codebook sizes {self.codebook_sizes}: "
                "expected one row an item and one column a level"
            )
        if not len(self.item_ids) == len(self.active) == len(self.codes):
            raise CatalogError(
                f"{len(self.codes)} rows of codes, {len(self.item_ids)} item ids, {len(self.active)} activity flags"
            )
        self._check_codes_in_range()
        self._check_ids_unique()
        if not self.shares:
            self._check_sids_unique()

    def save(self, folder: Path) -> None:
        """Writes ``catalog.parquet`` and ``catalog.json`` into ``folder``, each atomically."""
        codes = pl.Series("codes", self.codes, dtype=pl.Array(pl.Int64, self.num_levels))
        item_ids = pl.Series("item_id", self.item_ids, dtype=pl.String)
        table = pl.DataFrame([item_ids, codes.cast(pl.List(pl.Int64)), pl.Series("active", self.active)])
        rows = pl.int_range(len(self), dtype=pl.Int64, eager=True).alias("item_index")
        write_parquet(folder / "catalog.parquet", table.insert_column(0, rows))
        write_json(
            folder / "catalog.json",
            {
                "format": _FORMAT,
                "num_items": len(self),
                "num_active": self.num_active,
                "num_levels": self.num_levels,
                "codebook_sizes": list(self.codebook_sizes),
                "shares": self.shares,
                "spelling": self.spelling,
                "version": self.version,
                "parents": [asdict(parent) for parent in self.parents],
                "refit_of": self.refit_of,
                "before_refit": [asdict(earlier) for earlier in self.before_refit],
            },
        )

    @classmethod
    def load(cls, folder: Path) -> "Catalog":
        """Returns the catalog in ``folder``.

        Raises:
            ArtifactError: if a file is missing, of another format, or not the one that was written.
            CatalogError: as ``check_integrity``.
        """
        info = read_json(folder / "catalog.json")
        path = folder / "catalog.parquet"
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; run itemic tokenize again")
        if info.get("format") != _FORMAT:
            raise ArtifactError(f"{folder}: catalog format {info.get('format')}, this version reads {_FORMAT}")
        table = pl.read_parquet(path).sort("item_index")
        if (table["codes"].list.len() != info["num_levels"]).any():
            raise ArtifactError(f"{path}: holds a SID without exactly {info['num_levels']} codes")
        catalog = cls(
            codes=table["codes"].explode().to_numpy().reshape(table.height, info["num_levels"]),
            item_ids=table["item_id"].to_list(),
            codebook_sizes=info["codebook_sizes"],
            active=table["active"].to_numpy(),
            shares=info["shares"],
            spelling=info["spelling"],
            parents=_read_ancestors(info, "parents", folder / "catalog.json"),
            refit_of=info.get("refit_of"),
            before_refit=_read_ancestors(info, "before_refit", folder / "catalog.json"),
        )
        if catalog.version != info["version"]:
            raise ArtifactError(f"{path}: not the catalog that {folder / 'catalog.json'} describes (version differs)")
        return catalog

    @functools.cached_property
    def _sorted(self) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N L"]]:
        order = lexicographic_order(self.codes)
        return order, self.codes[order]

    def _with(
        self,
        *,
        active: Bool[np.ndarray, "M"],
        codes: Int[np.ndarray, "M L"] | None = None,
        item_ids: Sequence[str] | None = None,
    ) -> "Catalog":
        return Catalog(
            codes=self.codes if codes is None else codes,
            item_ids=self.item_ids if item_ids is None else item_ids,
            codebook_sizes=self.codebook_sizes,
            active=active,
            shares=self.shares,
            spelling=self.spelling,
            parents=(self._as_ancestor(), *self.parents),
            refit_of=self.refit_of,
            before_refit=self.before_refit,
        )

    def _as_ancestor(self) -> Ancestor:
        return Ancestor(version=self.version, num_items=len(self), num_active=self.num_active)

    def _check_rows(self, item_indices: Sequence[int]) -> None:
        rows = np.asarray(item_indices, dtype=np.int64)
        outside = (rows < 0) | (rows >= len(self))
        if outside.any():
            raise CatalogError(f"no item index {rows[outside.argmax()]}: the catalog has {len(self)} items")

    def _check_codes_in_range(self) -> None:
        wrong = (self.codes < 0) | (self.codes >= np.array(self.codebook_sizes))
        if wrong.any():
            row, level = np.argwhere(wrong)[0].tolist()
            raise CatalogError(
                f"item {self.item_ids[row]!r} (row {row}) has code {self.codes[row, level]} at level {level}, whose "
                f"codes are 0..{self.codebook_sizes[level] - 1}"
            )

    def _check_ids_unique(self) -> None:
        if len(set(self.item_ids)) == len(self.item_ids):
            return
        seen: set[str] = set()
        for row, item_id in enumerate(self.item_ids):
            if item_id in seen:
                raise CatalogError(f"item id {item_id!r} occurs twice, again in row {row}")
            seen.add(item_id)

    def _check_sids_unique(self) -> None:
        order, codes = self._sorted
        repeats = np.flatnonzero(~run_starts(codes))
        if len(repeats):
            first, second = order[repeats[0] - 1], order[repeats[0]]
            raise CatalogError(
                f"items {self.item_ids[first]!r} (row {first}) and {self.item_ids[second]!r} (row {second}) both "
                f"have SID {tuple(self.codes[first].tolist())}; {len(repeats)} items repeat one. Resolve the "
                'collisions (collisions="unique") or let items share (collisions="share")'
            )


def _read_ancestors(info: dict[str, Any], name: str, path: Path) -> list[Ancestor]:
    """Returns the line that a ``catalog.json`` states; files from before there was one state none."""
    try:
        return [Ancestor(**ancestor) for ancestor in info.get(name, [])]
    except TypeError as error:
        raise ArtifactError(f"{path}: damaged entry {name}: {error}") from None


def _feed_texts(digest: "hashlib._Hash", texts: Iterable[str]) -> None:
    """Feeds texts, each after its length in bytes."""
    for text in texts:
        encoded = text.encode("utf-8", errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)


def _feed_hex(digest: "hashlib._Hash", array: np.ndarray, dtype: str) -> None:
    """Feeds an array's bytes, row by row, as one text of hexadecimal digits."""
    digest.update((2 * array.size * np.dtype(dtype).itemsize).to_bytes(8, "big"))
    for first in range(0, len(array), _ROWS_AT_ONCE):
        digest.update(array[first : first + _ROWS_AT_ONCE].astype(dtype).tobytes().hex().encode())


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
