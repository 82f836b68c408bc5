"""The figures of ``quality.json`` in words, tiles and tables; computes none."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from itemic.core.page.formats import write_count, write_number, write_percent
from itemic.core.page.page import Fact
from itemic.sid.report.artifacts import SidArtifacts

__all__ = ["LevelBars", "QualityRow", "Summary", "describe_quality", "describe_summary", "describe_use"]

_MAX_BARS = 512


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The head of the page."""

    title: str
    sentences: tuple[str, ...]
    facts: tuple[Fact, ...]
    notes: tuple[str, ...]
    """What a reader must know to read the figures right."""


@dataclass(frozen=True, kw_only=True)
class LevelBars:
    """Use of one level's codes, fullest first."""

    level: int
    note: str
    path: str
    """Outline of the bars as an SVG path over ``width`` x 100."""
    width: int
    largest: int
    equal_height: float
    """Where all bars would end were all codes used equally, from the top."""


@dataclass(frozen=True, kw_only=True)
class QualityRow:
    """One figure for every prefix length."""

    name: str
    values: tuple[str, ...]
    meaning: str


def describe_summary(found: SidArtifacts) -> Summary:
    """Returns title, verdict and tiles."""
    return Summary(
        title=f"{found.name}: semantic IDs",
        sentences=tuple(_sentences(found)),
        facts=tuple(_facts(found)),
        notes=tuple(_notes(found)),
    )


def _sentences(found: SidArtifacts) -> Iterator[str]:
    catalog, quality = found.catalog, found.quality
    levels = "one code" if catalog.num_levels == 1 else f"{catalog.num_levels} codes"
    if len(catalog) == 1:
        yield f"1 item has a semantic ID of {levels}."
        return
    fate = "which items may share" if catalog.shares else "all of them different"
    yield f"{len(catalog):,} items have semantic IDs of {levels}, {fate}."
    if quality is None:
        return
    collided, moved = quality["collisions"]["before"]["share_of_items"], quality["share_moved"]
    if collided == 0:
        yield "The quantizer itself kept them apart."
    elif moved:
        yield f"{write_percent(moved)} had to move to another ID than the quantizer's."
    else:
        yield f"The quantizer gave {write_percent(collided)} of them an ID that another item has too."
    near = quality["neighbourhood"]
    if near:
        first = near["by_length"][0]
        chance = write_percent(first["chance"])
        text = f"Of an item's {near['k']} nearest items, {write_percent(first['recall'])} share its first code"
        yield f"{text} (by chance: {chance})."


def _facts(found: SidArtifacts) -> Iterator[Fact]:
    catalog, quality = found.catalog, found.quality
    sizes = " × ".join(f"{size:,}" for size in catalog.codebook_sizes)
    space = int(np.prod([float(size) for size in catalog.codebook_sizes]))
    yield Fact(label="Codebooks", value=sizes, note=f"{write_percent(len(catalog) / space, 2)} of {space:,} IDs used")
    if quality:
        yield from _quality_facts(quality)
    if catalog.active.all():
        return
    num_removed = int((~catalog.active).sum())
    yield Fact(label="Items removed", value=write_count(num_removed), note="keep their IDs, are never recommended")


def _quality_facts(quality: Mapping[str, Any]) -> Iterator[Fact]:
    before, after = quality["collisions"]["before"], quality["collisions"]["after"]
    note = f"up to {before['max_items']:,} items on one ID; in the catalog {write_percent(after['rate'], 2)}"
    yield Fact(label="Collision rate as coded", value=write_percent(before["rate"], 2), note=note)
    yield Fact(label="Items moved", value=write_percent(quality["share_moved"]), note="to make IDs differ")
    errors = quality["reconstruction"]
    if errors and errors["after"]["relative"] is not None:
        note = f"{write_percent(errors['before']['relative'])} as coded"
        yield Fact(label="Variance not explained", value=write_percent(errors["after"]["relative"]), note=note)
    near = quality["neighbourhood"]
    if near:
        note = f"{write_number(near['by_length'][0]['lift'])} times chance"
        value = write_percent(near["by_length"][0]["recall"])
        yield Fact(label=f"Nearest {near['k']} under the first code", value=value, note=note)
    correlation = quality["distance_correlation"]
    if correlation and correlation["stratified"] is not None:
        note = "vector distance and ID distance, Spearman"
        yield Fact(label="Distance correlation", value=f"{correlation['stratified']:.2f}", note=note)


def _notes(found: SidArtifacts) -> Iterator[str]:
    quality = found.quality
    if quality is None:
        yield "catalog/quality.json is missing: itemic tokenize writes it."
    elif quality["num_items"] != found.catalog.num_active:
        yield (
            f"The figures are those of {quality['num_items']:,} items; the catalog has {found.catalog.num_active:,} "
            "that can be recommended by now."
        )
    elif quality["num_items"] != len(found.catalog):
        yield "Figures, bars and neighbours leave the removed items out; the tree and the collisions mark them."
    if quality is not None and not quality["neighbourhood"]:
        yield "The figures were made without item vectors: those of distance, error and neighbours are left out."


def describe_use(found: SidArtifacts) -> tuple[LevelBars, ...]:
    """Returns the use of every level's codes by the items that can be recommended; none without such items."""
    catalog = found.catalog
    if catalog.num_active == 0:
        return ()
    codes = catalog.codes[catalog.active]
    return tuple(_bars(level, codes[:, level], size) for level, size in enumerate(catalog.codebook_sizes))


def _bars(level: int, column: np.ndarray, size: int) -> LevelBars:
    counts = np.sort(np.bincount(column, minlength=size))[::-1]
    shares = counts[counts > 0] / counts.sum()
    perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
    parts = np.array_split(counts, min(size, _MAX_BARS))
    heights = [100 * float(part.mean()) / int(counts[0]) for part in parts]
    steps = " ".join(f"V{100 - height:.1f}H{place + 1}" for place, height in enumerate(heights))
    used = f"{len(shares):,} of {size:,} codes used, as good as {write_number(round(perplexity, 1))} used equally"
    return LevelBars(
        level=level + 1,
        note=f"{used}; {counts[0]:,} items on the fullest, {counts[size // 2]:,} on the middle one",
        path=f"M0 100 {steps} V100Z",
        width=len(parts),
        largest=int(counts[0]),
        equal_height=100 - 100 * float(counts.mean()) / int(counts[0]),
    )


def describe_quality(found: SidArtifacts) -> tuple[QualityRow, ...]:
    """Returns every figure that there is for each prefix length, with its meaning; none without quality.json."""
    if found.quality is None:
        return ()
    return (*_use_rows(found.quality), *_vector_rows(found.quality), *_label_rows(found.quality))


def _use_rows(quality: Mapping[str, Any]) -> Iterator[QualityRow]:
    levels, prefixes = quality["levels"], quality["prefixes"]
    yield _row(
        "Codes used",
        [write_percent(one["share_used"]) for one in levels],
        "Share of the level's codes that items carry.",
    )
    meaning = "How many codes equal use would need; the level's own codes, whatever stands before them."
    yield _row("Perplexity", [write_number(round(one["perplexity"], 1)) for one in levels], meaning)
    meaning = "0 where all codes are used equally, near 1 where few codes have all items."
    yield _row("Gini", [f"{one['gini']:.2f}" for one in levels], meaning)
    yield _row("Distinct prefixes", [write_count(one["num"]) for one in prefixes], "Different IDs so far.")
    meaning = "How many prefixes equal use would need."
    yield _row("Perplexity of prefixes", [write_number(round(one["perplexity"], 1)) for one in prefixes], meaning)
    meaning = "Nats that this code adds to those before it: the loss of a model that knows nothing of the user."
    yield _row("Entropy of the code", [f"{one['entropy_of_last']:.2f}" for one in prefixes], meaning)


def _vector_rows(quality: Mapping[str, Any]) -> Iterator[QualityRow]:
    errors, near, alike = quality["reconstruction"], quality["neighbourhood"], quality["similarity"]
    if errors:
        meaning = "Share of the vectors' variance that codes up to here do not explain."
        yield _row("Variance not explained", [write_percent(one["relative"]) for one in errors["by_length"]], meaning)
    if near:
        values = near["by_length"]
        meaning = f"Share of an item's {near['k']} nearest items that begin with the same codes."
        yield _row("Neighbourhood recall", [write_percent(one["recall"]) for one in values], meaning)
        meaning = "The most that prefixes of these sizes can reach; no prefix has room for all neighbours of its items."
        yield _row("… at most", [write_percent(one["ceiling"]) for one in values], meaning)
        yield _row("… times chance", [write_number(one["lift"]) for one in values], "Against codes dealt at random.")
    # Catalogs of earlier versions do not have it.
    in_log = quality.get("log_neighbourhood")
    if in_log:
        values = in_log["by_length"]
        meaning = f"The same of the {in_log['k']} nearest items in the training log: the best sign of good rankings."
        yield _row("Log neighbours", [write_percent(one["recall"]) for one in values], meaning)
        yield _row("… times chance", [write_number(one["lift"]) for one in values], "Against codes dealt at random.")
    if alike:
        meaning = f"Mean cosine of two items with this prefix; {_write_cosine(alike[0])} for any two items."
        yield _row("Similarity", [_write_cosine(one) for one in alike[1:]], meaning)


def _label_rows(quality: Mapping[str, Any]) -> Iterator[QualityRow]:
    for name, found in quality["purity"].items():
        if not found["levels"]:
            continue
        meaning = f"Items that carry the commonest {name} of their prefix; rises with the number of prefixes."
        yield _row(f"Purity in {name}", [write_percent(one["purity"]) for one in found["levels"]], meaning)
        meaning = "Codes dealt at random, in prefixes of the same sizes."
        yield _row("… by chance", [write_percent(one["chance"]) for one in found["levels"]], meaning)
        meaning = "What lies between chance (0) and pure prefixes (1)."
        yield _row("… adjusted", [_write_cosine(one["adjusted"]) for one in found["levels"]], meaning)
        values = [_write_cosine(one["adjusted_mutual_information"]) for one in found["levels"]]
        meaning = f"Of prefix and {name}: 0 by chance, 1 where each tells the other."
        yield _row("Adjusted mutual information", values, meaning)


def _row(name: str, values: Sequence[str], meaning: str) -> QualityRow:
    return QualityRow(name=name, values=tuple(values), meaning=meaning)


def _write_cosine(value: float | None) -> str:
    return "–" if value is None else f"{value + 0.0:.2f}".replace("-0.00", "0.00").replace("-", "−")
