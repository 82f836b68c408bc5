"""A run whose catalogue lives on: items come, items go, and now and then the codes are learned anew.

Each of these makes a new run folder out of an old one, which is never touched: what did not change is linked or
copied, and the manifest says that everything up to the catalog is up to date, so that training the new folder keeps
the codes. What judged the old catalogue (metrics, rankings, report) is left behind.
"""

import contextlib
import datetime
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import yaml
from jaxtyping import Float, Int
from safetensors import safe_open

from itemic.core.config import config_from_mapping, read_yaml
from itemic.core.dataset import Dataset
from itemic.core.errors import ArtifactError, CatalogError, ConfigError, DataError
from itemic.core.files import atomic_folder, atomic_path, path_hash, read_json, write_json, write_parquet
from itemic.core.run import Run, stage_fingerprint
from itemic.core.seeds import derive_rng
from itemic.core.trained_model import rl_is_outdated
from itemic.data.additions import read_additions
from itemic.data.lookup import find_items
from itemic.data.prepare import PrepareConfig
from itemic.data.sources.table import TableConfig
from itemic.embed.embed import EmbedConfig, extend_embeddings
from itemic.sid.catalog import Catalog
from itemic.sid.growth import append_items
from itemic.sid.labels import read_labels
from itemic.sid.lineage import describe_change
from itemic.sid.moves import read_codes_before
from itemic.sid.quality import collisions, measure_quality
from itemic.sid.quantizers.protocol import Quantizer
from itemic.sid.quantizers.registry import load_quantizer
from itemic.sid.refit import refit_catalog
from itemic.sid.tokenize import TokenizeConfig, summarize, write_catalog
from itemic.sid.vectors import (
    CollaborativeItems,
    JointTransform,
    VectorTransform,
    load_transform,
    read_collaborative,
    read_embeddings,
    require_collaborative,
    write_collaborative,
)

__all__ = ["append_to_run", "describe_catalog", "refit_run", "retire_from_run"]

C = TypeVar("C")

_TRAINED = ("model", "align", "rl", "sft.jsonl")
_TRAINING_STAGES = ("align", "sft", "rl")
_JUDGED = ("metrics.json", "rankings", "report.html", "sids.html", "checkpoints")
_JUDGING_STAGES = ("evaluate", "report")
_WRITTEN_WHOLE = (".safetensors", ".parquet")
_STEPS = "upkeep.json"


def describe_catalog(folder: Path) -> dict[str, Any]:
    """Returns what a run's catalog is: size, version, what it grew from, collisions, and what its model was trained on.

    Raises:
        ArtifactError: if the run has no catalog.
    """
    run = Run(folder)
    catalog = Catalog.load(run.require("catalog", "tokenize"))
    active = catalog.codes[catalog.active]
    trained_on, after_rl = _trained_on(run.path("model")), _trained_on(run.path("rl/model"))
    return {
        "version": catalog.version,
        "codebook_sizes": list(catalog.codebook_sizes),
        "spelling": catalog.spelling,
        "num_items": len(catalog),
        "num_active": catalog.num_active,
        "num_retired": len(catalog) - catalog.num_active,
        "collisions": collisions(active) if len(active) else None,
        "parents": [vars(parent) for parent in catalog.parents],
        "refit_of": catalog.refit_of,
        "model_trained_on": trained_on,
        "model": _relation(catalog, trained_on),
        "model_after_rl": _relation(catalog, after_rl) + _start_of_rl(run) if after_rl else None,
        "steps": _steps(run),
    }


def append_to_run(
    folder: Path, file: Path, out: Path, *, vectors: Path | None = None, vector_ids: Path | None = None
) -> dict[str, Any]:
    """Returns figures after making a run whose catalogue has the items of a file as well; no code changes.

    The texts of the new items are embedded as the run's were, and coded by its quantizer. Where the run's vectors were
    made elsewhere, so must those of the new items be. Joint vectors predict the collaborative part, which new items
    do not have, from the text.

    Args:
        folder: The run.
        file: A table of items, as ``data.additions.read_additions`` takes it.
        out: Folder of the new run, which must not be there.
        vectors: File with the vectors of the new items, as ``embed.given.read_vectors`` takes it; by default they are
            looked for where the run's came from.
        vector_ids: Text file with the item id of each, one a line, where the former has none.

    Raises:
        ArtifactError: if an artefact is missing or the run's parts do not fit together.
        CatalogError: if no SID is left for an item.
        ConfigError: if ``out`` is there, or vectors are given for a run that encodes texts.
        DataError: if the file has a row that cannot be used, or an item that the catalogue has, or an item has no
            vector.
    """
    run = Run(folder)
    dataset, catalog = _open(run)
    quantizer = _quantizer(run)
    old_text = run.require("embeddings.safetensors", "embed")
    read_embeddings(old_text, catalog.item_ids)
    embed_config = _embed_config(run, vectors, vector_ids)
    added = _read_added(file, dataset)
    items = pl.concat([dataset.items, added])
    with _new_run(run, out) as new:
        _write_items(dataset, items, new.path("dataset"))
        text = _extend_embeddings(old_text, new.path("embeddings.safetensors"), items, embed_config, vectors)
        transform = _transform(run)
        grown = append_items(catalog, quantizer, added["item_id"].to_list(), transform.transform(text[len(catalog) :]))
        x = transform.transform(text, _extend_collaborative(run, new, grown))
        before = np.concatenate([_codes_before(run, catalog), quantizer.encode(x[len(catalog) :])])
        tokenized = _write_catalog(run, new, grown, before, quantizer, x, items)
        figures = {"num_new": added.height, "num_items": len(grown), "num_active": grown.num_active}
        _finish(run, new, out, {"operation": "append", "file": file.as_posix()}, catalog, grown, figures, tokenized)
    return _summary(out, catalog, grown, figures)


def retire_from_run(folder: Path, queries: Sequence[str], out: Path) -> dict[str, Any]:
    """Returns figures after making a run in which some items are never recommended again.

    They keep row and SID, so that histories with them can still be read; logs and splits stay as they are.

    Args:
        folder: The run.
        queries: Ids or titles of the items.
        out: Folder of the new run, which must not be there.

    Raises:
        ArtifactError: if an artefact is missing or the run's parts do not fit together.
        DataError: if there is no such item, it is retired already, or none would be left.
    """
    run = Run(folder)
    dataset, catalog = _open(run)
    rows = sorted(set(find_items(dataset.items, queries)))
    gone = [row for row in rows if not catalog.active[row]]
    if gone:
        raise DataError(f"item {catalog.item_ids[gone[0]]!r} is retired already (of those named: {len(gone)})")
    if not rows:
        raise DataError("no items to retire: name their ids or titles (--items), or a text file of them (--file)")
    if len(rows) == catalog.num_active:
        raise DataError(f"all {len(rows)} active items would be retired: a catalog needs some that stay")
    smaller = catalog.remove(rows)
    with _new_run(run, out) as new:
        quantizer = _quantizer(run) if _has_quantizer(run) else None
        x = None if quantizer is None else _vectors(run, catalog)[0]
        before = _codes_before(run, catalog)
        tokenized = _write_catalog(run, new, smaller, before, quantizer, x, dataset.items)
        figures = {"num_retired": len(rows), "num_items": len(smaller), "num_active": smaller.num_active}
        retired = [catalog.item_ids[row] for row in rows]
        _finish(run, new, out, {"operation": "retire", "items": retired}, catalog, smaller, figures, tokenized)
    return _summary(out, catalog, smaller, figures)


def refit_run(folder: Path, out: Path) -> dict[str, Any]:
    """Returns figures after making a run whose codes are learned anew from its active items.

    ``mapping-OLD-NEW.parquet``, named by the first 12 digits of both versions, leads from the old codes to the new ones
    (``sid.refit.code_mapping``); runs made of the new one keep it. The model spoke the old codes, so the new run has
    none until it is trained. Joint vectors are made as before.

    Args:
        folder: The run.
        out: Folder of the new run, which must not be there.

    Raises:
        ArtifactError: if an artefact is missing or the run's parts do not fit together.
        CatalogError: if there are too few active items to learn from, or fewer SIDs than items.
    """
    run = Run(folder)
    dataset, catalog = _open(run)
    x, known = _vectors(run, catalog)
    config = _config(run, "tokenize", TokenizeConfig)
    seed = int(run.manifest()["stages"]["tokenize"]["seed"])
    rng = derive_rng(seed, "refit", catalog.version)
    from_log = None if known is None else known.vectors
    refitted = refit_catalog(catalog, _quantizer(run), x, rng, config.collisions, from_log)
    with _new_run(run, out, without=_TRAINED) as new:
        renewed = refitted.catalog
        before = refitted.quantizer.encode(x)
        tokenized = _write_catalog(run, new, renewed, before, refitted.quantizer, x, dataset.items)
        mapping = f"mapping-{catalog.version[:12]}-{renewed.version[:12]}.parquet"
        write_parquet(new.path(mapping), refitted.mapping)
        figures = {**refitted.summary, "mapping": mapping}
        _finish(run, new, out, {"operation": "refit"}, catalog, renewed, figures, tokenized)
    return _summary(out, catalog, renewed, figures)


def _open(run: Run) -> tuple[Dataset, Catalog]:
    dataset = Dataset.load(run.require("dataset", "prepare"))
    catalog = Catalog.load(run.require("catalog", "tokenize"))
    catalog.check_fits(dataset.items["item_id"].to_list())
    if len(catalog) != dataset.num_items:
        raise ArtifactError(
            f"{run.path('catalog')} has {len(catalog)} items, dataset/ {dataset.num_items}: expected as many"
        )
    return dataset, catalog


def _read_added(file: Path, dataset: Dataset) -> pl.DataFrame:
    stated = dataset.info.get("config", {})
    source = None
    if stated.get("source", {}).get("format") == "table":
        source = config_from_mapping(TableConfig, stated["source"], source="dataset.json")
    clean = stated.get("clean_titles", PrepareConfig.clean_titles)
    return read_additions(file, dataset.items, source=source, clean=clean)


def _config(run: Run, stage: str, config_type: type[C]) -> C:
    """Returns the config that a stage ran with."""
    entry = run.manifest()["stages"].get(stage)
    if entry is None:
        raise ArtifactError(f"{run.manifest_path}: no entry for {stage}; run itemic {stage} again")
    return config_from_mapping(config_type, entry["config"], source=f"{run.manifest_path}: {stage}")


def _embed_config(run: Run, vectors: Path | None, vector_ids: Path | None) -> EmbedConfig:
    """Returns how the vectors of new items are made: as the run's were, or out of the file that is named."""
    config = _config(run, "embed", EmbedConfig)
    if vectors is None and vector_ids is None:
        return config
    if vectors is None:
        raise ConfigError(f"{vector_ids}: ids of which vectors? Name their file: --embeddings FILE (vectors=)")
    if not config.vectors:
        raise ConfigError(
            f"{vectors}: the run's vectors were made from texts by the encoder {config.encoder}, so those of new items "
            "are too; leave the file out"
        )
    return replace(config, vectors=vectors.as_posix(), vector_ids="" if vector_ids is None else vector_ids.as_posix())


def _extend_embeddings(
    old: Path, new: Path, items: pl.DataFrame, config: EmbedConfig, vectors: Path | None
) -> Float[np.ndarray, "N D"]:
    try:
        return extend_embeddings(old, new, items, config)
    except (ConfigError, DataError) as error:
        if vectors is not None or not config.vectors:
            raise
        raise DataError(
            f"{error}. The run's vectors were given, not made from texts: name a file with those of the new items, "
            "--embeddings FILE (vectors=), and --embedding-ids FILE (vector_ids=) if it has no ids"
        ) from None


def _has_quantizer(run: Run) -> bool:
    return (run.path("catalog") / "quantizer.safetensors").is_file()


def _quantizer(run: Run) -> Quantizer:
    path = run.path("catalog") / "quantizer.safetensors"
    if not _has_quantizer(run):
        raise CatalogError(
            f"{path}: missing, its SIDs were given without vectors, so no item can be coded; run itemic embed and "
            "itemic tokenize again"
        )
    return load_quantizer(path)


def _transform(run: Run) -> VectorTransform:
    return load_transform(run.path("catalog") / "vectors.safetensors")


def _vectors(run: Run, catalog: Catalog) -> tuple[Float[np.ndarray, "N D"], CollaborativeItems | None]:
    """Returns what the quantizer codes, and the collaborative vectors where the run has some."""
    text = read_embeddings(run.require("embeddings.safetensors", "embed"), catalog.item_ids)
    known = _collaborative(run, catalog.item_ids)
    return _transform(run).transform(text, known), known


def _codes_before(run: Run, catalog: Catalog) -> Int[np.ndarray, "N M"]:
    """Returns the codes of all items before collisions were resolved."""
    num_levels = len(_config(run, "tokenize", TokenizeConfig).codebook_sizes)
    codes = read_codes_before(run.path("catalog"), catalog.codes, num_levels)
    if codes is None:
        raise ArtifactError(f"{run.path('catalog')}: moved.parquet is missing; run itemic tokenize again")
    return codes


def _collaborative(run: Run, item_ids: Sequence[str]) -> CollaborativeItems | None:
    """Returns the vectors from the log, None where the run has none.

    Raises:
        ArtifactError: if joint vectors were made of them and they are gone; predicting all of them from the texts
            would give vectors that the quantizer did not learn from.
    """
    path = run.path("collaborative.safetensors")
    transform = _transform(run)
    if isinstance(transform, JointTransform) and transform.config.collaborative_weight > 0:
        require_collaborative(path)
    return read_collaborative(path, item_ids) if path.is_file() else None


def _extend_collaborative(run: Run, new: Run, grown: Catalog) -> CollaborativeItems | None:
    """Returns the vectors of a catalogue that has grown, after writing them; of new items nothing was seen."""
    num_known = grown.parents[0].num_items
    known = _collaborative(run, grown.item_ids[:num_known])
    if known is None:
        return None
    num_new = len(grown) - num_known
    extended = CollaborativeItems(
        vectors=np.concatenate([known.vectors, np.zeros((num_new, known.vectors.shape[1]), dtype=np.float32)]),
        seen=np.concatenate([known.seen, np.zeros(num_new, dtype=bool)]),
    )
    with safe_open(run.path("collaborative.safetensors"), framework="np") as stored:
        made_by = (stored.metadata() or {}).get("kind", "")
    write_collaborative(new.path("collaborative.safetensors"), extended, grown.item_ids, made_by)
    return extended


def _write_items(dataset: Dataset, items: pl.DataFrame, folder: Path) -> None:
    """Writes the dataset with more items; its log and splits are the same, since nobody has met them yet."""
    info = {**dataset.info, "counts": {**dataset.info.get("counts", {}), **_counts(dataset, items)}}
    Dataset(
        items=items,
        interactions=dataset.interactions,
        train=dataset.train,
        valid=dataset.valid,
        test=dataset.test,
        info=info,
    ).save(folder)


def _counts(dataset: Dataset, items: pl.DataFrame) -> dict[str, Any]:
    density = dataset.info.get("counts", {}).get("density")
    counts: dict[str, Any] = {"items": items.height}
    return counts if density is None else {**counts, "density": density * dataset.num_items / items.height}


def _write_catalog(
    run: Run,
    new: Run,
    catalog: Catalog,
    before: Int[np.ndarray, "N M"],
    quantizer: Quantizer | None,
    x: Float[np.ndarray, "N D"] | None,
    items: pl.DataFrame,
) -> dict[str, Any]:
    """Returns the stage's figures, which are those of the active items, after writing ``catalog/``."""
    config = _config(run, "tokenize", TokenizeConfig)
    labels = read_labels(items, config.label_columns)
    known = _collaborative(new, catalog.item_ids)
    figures = measure_quality(
        before,
        catalog.codes,
        catalog.codebook_sizes,
        x,
        quantizer,
        labels=labels,
        active=catalog.active,
        log_vectors=None if known is None else known.vectors,
    )
    write_catalog(new.path("catalog"), catalog, before, quantizer, _transform(run), figures)
    return summarize(catalog, figures)


@contextlib.contextmanager
def _new_run(run: Run, out: Path, without: Sequence[str] = ()) -> Iterator[Run]:
    """Yields a folder with all of a run but its catalog and results; it becomes ``out`` when the block ends well."""
    if out.exists():
        raise ConfigError(f"{out}: is there already; name a folder that does not exist yet")
    if out.resolve().is_relative_to(run.folder.resolve()):
        raise ConfigError(f"{out}: lies in the run that it is made from; name a folder outside {run.folder}")
    with atomic_folder(out) as temporary:
        _copy(run.folder, temporary, {"catalog", *_JUDGED, *without})
        yield Run(temporary)


def _copy(source: Path, target: Path, without: set[str]) -> None:
    """Links or copies the files of a folder; hidden ones are left out.

    A file that is always written whole, under another name first, can share its bytes with the old run.
    """
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or relative.parts[0] in without or not path.is_file():
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in _WRITTEN_WHOLE:
            with contextlib.suppress(OSError):
                os.link(path, target / relative)
                continue
        shutil.copy2(path, target / relative)


def _finish(
    run: Run,
    new: Run,
    out: Path,
    step: Mapping[str, Any],
    before: Catalog,
    after: Catalog,
    figures: Mapping[str, Any],
    tokenized: Mapping[str, Any],
) -> None:
    """Writes what says where the new run came from: ``upkeep.json``, its recipe and its manifest."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    versions = {"catalog_before": before.version, "catalog_after": after.version}
    write_json(
        new.path(_STEPS),
        [*_steps(run), {**step, "from": run.folder.as_posix(), **versions, **figures, "finished_at": now}],
    )
    recipe = new.path("recipe.yaml")
    if recipe.is_file():
        with atomic_path(recipe) as temporary:
            values = {**read_yaml(recipe), "run": out.as_posix()}
            temporary.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    counts = {"prepare": {"items": len(after)}, "embed": {"num_items": len(after)}, "tokenize": tokenized}
    _write_manifest(run, new, counts)


def _write_manifest(run: Run, new: Run, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the manifest: stages up to the catalog count as done with what is there now, training as it was."""
    manifest = run.manifest()
    stages = {name: entry for name, entry in manifest["stages"].items() if name not in _JUDGING_STAGES}
    if not new.path("model").exists():
        stages = {name: entry for name, entry in stages.items() if name not in _TRAINING_STAGES}
    made = [name for name in stages if name not in _TRAINING_STAGES]
    replaced = _replaced(
        run, new, {"dataset/items.parquet", *(out for name in made for out in stages[name]["outputs"])}
    )
    for name in made:
        stages[name] = _renewed(stages[name], replaced, metrics.get(name, {}))
    write_json(new.manifest_path, {**manifest, "stages": stages})


def _replaced(run: Run, new: Run, names: set[str]) -> dict[str, str]:
    """Returns the hash of each artefact in the new run, by its hash in the old one."""
    there = [name for name in sorted(names) if run.path(name).exists() and new.path(name).exists()]
    return {path_hash(run.path(name)): path_hash(new.path(name)) for name in there}


def _renewed(entry: dict[str, Any], replaced: Mapping[str, str], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a stage's entry as if it had made the new artefacts; as it was if it was out of date before."""
    config, seed = entry["config"], entry["seed"]
    if stage_fingerprint(config, entry["inputs"], seed, list(entry["outputs"])) != entry["fingerprint"]:
        return entry
    inputs, outputs = (
        {name: replaced.get(digest, digest) for name, digest in entry[part].items()} for part in ("inputs", "outputs")
    )
    shown = {**entry["metrics"], **{name: value for name, value in metrics.items() if name in entry["metrics"]}}
    fingerprint = stage_fingerprint(config, inputs, seed, list(outputs))
    return {**entry, "fingerprint": fingerprint, "inputs": inputs, "outputs": outputs, "metrics": shown}


def _steps(run: Run) -> list[dict[str, Any]]:
    path = run.path(_STEPS)
    steps: list[dict[str, Any]] = read_json(path) if path.is_file() else []
    return steps


def _trained_on(model: Path) -> str | None:
    card = model / "itemic.json"
    version: str | None = read_json(card).get("catalog_version") if card.is_file() else None
    return version


def _relation(catalog: Catalog, trained_on: str | None) -> str:
    if trained_on is None:
        return "none"
    if trained_on == catalog.version:
        return "trained on this catalog"
    return f"trained on {trained_on[:12]}; this one {describe_change(catalog, trained_on)}"


def _start_of_rl(run: Run) -> str:
    outdated = rl_is_outdated(run.manifest()["stages"])
    return f"; began from an older model; run itemic rl --run {run.folder}" if outdated else ""


def _summary(out: Path, before: Catalog, after: Catalog, figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"run": out.as_posix(), "catalog_before": before.version, "catalog_after": after.version, **figures}
