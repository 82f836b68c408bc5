"""The embed stage: the text of every item, or its vector made elsewhere, becomes a row of ``embeddings.safetensors``.

Every vector is kept in the cache by the hash of its text, a few batches at a time: a killed run goes on where it
was, and when the catalogue changes only new or changed items are encoded.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load_file

from itemic.core.config import config_to_mapping
from itemic.core.device import pick_device
from itemic.core.errors import ArtifactError, ConfigError
from itemic.core.files import file_hash, map_array, path_hash, text_hash, write_rows
from itemic.core.packages import cache_folder
from itemic.core.progress import progress_bar
from itemic.core.run import Run, StageResult
from itemic.embed.cache import EmbeddingCache
from itemic.embed.encoder import EncoderOptions, TextEncoder
from itemic.embed.given import find_rows, read_vectors
from itemic.embed.hugging_face import HuggingFaceEncoder
from itemic.embed.models import model_folder, sentence_pooling
from itemic.embed.sentence_transformer import SentenceTransformerEncoder
from itemic.embed.texts import item_texts

__all__ = ["EmbedConfig", "embed", "embed_texts", "encode_cached", "extend_embeddings", "load_embeddings"]

_BATCHES_A_FILE = 8
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Which encoder reads which text of an item, and how."""

    vectors: str = ""
    """File of vectors made elsewhere, .parquet, .npy or .safetensors; the settings of the encoder mean nothing then.
    Empty: the items' texts are encoded."""
    vector_ids: str = ""
    """Text file with the item id of each vector, one a line; a Parquet file has them itself."""
    encoder: str = "minilm"
    """``minilm`` (from its wheel), a folder, or a hub id."""
    backend: Literal["transformers", "sentence-transformers"] = "transformers"
    """What runs it; ``sentence-transformers`` (extra ``text``) is for models with modules beyond pooling."""
    pooling: Literal["model", "mean", "last", "cls"] = "model"
    """How token vectors become one: ``model`` as its sentence-transformers files say; MiniOneRec uses ``mean``,
    Qwen3-Embedding is made for ``last``."""
    instruction: str = ""
    """Put before every text, as it is. Default: none, as MiniOneRec."""
    normalize: bool = True
    """Whether vectors are scaled to length 1; otherwise they stay as the model makes them."""
    max_length: int = 0
    """Longest text in tokens, cut beyond; 0 for the model's own limit (256 for MiniLM)."""
    batch_size: int = 32
    """Texts at a time; sorted by length, so that little is padding."""
    fields: tuple[str, ...] = ("title", "description")
    """Columns of the catalogue that make the text, in this order. Default: MiniOneRec."""
    device: str = "auto"
    """``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:<n>``."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the encoder's weights; the vectors are float32 always."""

    def __post_init__(self) -> None:
        if self.vector_ids and not self.vectors:
            raise ConfigError(f"vector_ids {self.vector_ids}: of which vectors? set vectors to their file")
        if not self.fields:
            raise ConfigError("fields: expected at least one column of the catalogue")
        if self.batch_size < 1 or self.max_length < 0:
            raise ConfigError(f"batch_size {self.batch_size}, max_length {self.max_length}: expected >= 1 and >= 0")
        if self.backend == "sentence-transformers" and self.pooling != "model":
            raise ConfigError(
                f"pooling {self.pooling!r}: sentence-transformers pools as the model's files say; "
                "set pooling: model, or backend: transformers"
            )


def embed(config: EmbedConfig, run: Run, *, seed: int, force: bool = False) -> StageResult:
    """Returns the stage's result after writing ``embeddings.safetensors``: float32 (N, D), one row an item.

    Its metadata say what made it: the encoder, how, and the hashes of the texts and of the item ids in their order.

    Args:
        config: Encoder and text.
        run: Folder with ``dataset/``.
        seed: Not used: nothing here is random, so a change of seed does not run the stage again.
        force: Writes the file again; cached vectors are still taken from the cache.

    Raises:
        ConfigError: if the encoder, a column or a file of vectors does not exist.
        DataError: if an item has no text, or no vector in a file of vectors.
    """
    items_path = run.require("dataset", "prepare") / "items.parquet"
    given = {name: Path(getattr(config, name)) for name in ("vectors", "vector_ids") if getattr(config, name)}

    def work() -> dict[str, Any]:
        items = pl.read_parquet(items_path)
        made = (_adopt if given else _encode)(items, config)
        _write(run.path("embeddings.safetensors"), [made], items)
        return {"num_items": made.shape[0], "width": made.shape[1], **made.figures}

    return run.stage(
        "embed",
        work,
        config=config_to_mapping(config),
        inputs={"items": items_path, **given},
        outputs=["embeddings.safetensors"],
        seed=0,
        force=force,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Vectors:
    """Vectors of some items, a row each, read block by block."""

    shape: tuple[int, int]
    blocks: Iterable[np.ndarray]
    metadata: dict[str, str] = field(default_factory=dict)
    """What a file says of them."""
    figures: dict[str, Any] = field(default_factory=dict)
    """For the stage."""


def _encode(items: pl.DataFrame, config: EmbedConfig) -> _Vectors:
    """Returns the vectors of the items' texts."""
    texts = item_texts(items, config.fields)
    metadata = {
        "encoder": config.encoder,
        "backend": config.backend,
        "pooling": config.pooling,
        "fields": ",".join(config.fields),
        "text_hash": text_hash(*texts),
    }
    x = embed_texts(texts, config)
    figures = {"num_distinct_texts": len(set(texts))}
    return _Vectors(shape=x.shape, blocks=[x], metadata=metadata, figures=figures)


def _adopt(items: pl.DataFrame, config: EmbedConfig) -> _Vectors:
    """Returns the items' vectors out of a file."""
    path, ids_path = Path(config.vectors), Path(config.vector_ids) if config.vector_ids else None
    ids, x = read_vectors(path, ids_path)
    rows = find_rows(items["item_id"].to_list(), ids, path)
    blocks = (x[rows[first : first + _ROWS_AT_ONCE]] for first in range(0, len(rows), _ROWS_AT_ONCE))
    metadata = {"encoder": "given", "vectors_hash": file_hash(path)}
    return _Vectors(shape=(len(rows), x.shape[1]), blocks=blocks, metadata=metadata)


def _write(path: Path, parts: Sequence[_Vectors], items: pl.DataFrame) -> None:
    """Writes the vectors of all items, part after part, with what the last part says of them."""
    shape = (sum(part.shape[0] for part in parts), parts[-1].shape[1])
    blocks = (block for part in parts for block in part.blocks)
    write_rows(path, "embeddings", shape, blocks, {**parts[-1].metadata, "item_hash": text_hash(*items["item_id"])})


def extend_embeddings(old: Path, new: Path, items: pl.DataFrame, config: EmbedConfig) -> Float32[np.ndarray, "N D"]:
    """Returns the vectors of a catalogue that has grown, mapped, after writing them; only the new items are encoded.

    Args:
        old: ``embeddings.safetensors`` of the first items.
        new: Where to write those of all items; what it says of itself is what ``embed`` would say.
        items: All items, the new ones last.
        config: What made the old ones; where they came from a file, it may name another one with the new ones.

    Raises:
        ArtifactError: if the old file is missing or damaged, or its vectors are of another width than the new ones.
        DataError: if a new item has no text, or no vector in a file of vectors.
    """
    mapped = map_array(old, "embeddings")
    known = _Vectors(shape=mapped.shape, blocks=[mapped])
    fresh = (_adopt if config.vectors else _encode)(items[len(mapped) :], config)
    if fresh.shape[1] != known.shape[1]:
        raise ArtifactError(
            f"{old}: vectors {known.shape[1]} wide, those of the new items are {fresh.shape[1]} wide: another encoder "
            "made them"
        )
    if "text_hash" in fresh.metadata:
        fresh.metadata["text_hash"] = text_hash(*item_texts(items, config.fields))
    _write(new, [known, fresh], items)
    return map_array(new, "embeddings")


def embed_texts(texts: Sequence[str], config: EmbedConfig) -> Float32[np.ndarray, "n D"]:
    """Returns one vector a text, from the cache where it has been read before.

    Raises:
        ConfigError: if the encoder does not exist or cannot do what the config says.
    """
    folder = model_folder(config.encoder)
    cache = EmbeddingCache(cache_folder() / "embeddings" / _fingerprint(config, folder))
    return encode_cached(texts, lambda: _make_encoder(config, folder), cache, batch_size=config.batch_size)


def encode_cached(
    texts: Sequence[str], make_encoder: Callable[[], TextEncoder], cache: EmbeddingCache, *, batch_size: int
) -> Float32[np.ndarray, "n D"]:
    """Returns one vector a text; each distinct text that the cache lacks is encoded once and cached.

    Args:
        texts: At least one.
        make_encoder: Called only if something is to be encoded, since loading takes long.
        cache: What this encoder gave before.
        batch_size: Texts at a time, longest first: if memory does not suffice, the first batch tells.
    """
    assert texts
    keys = [text_hash(text) for text in texts]
    by_key = dict(zip(keys, texts, strict=True))
    vectors = cache.read(by_key)
    missing = sorted(by_key.keys() - vectors.keys(), key=lambda key: (-len(by_key[key]), key))
    if missing:
        encoder = make_encoder()
        with progress_bar("embedding items", total=len(missing)) as advance:
            for chunk in _chunks(missing, _BATCHES_A_FILE * batch_size):
                fresh: dict[str, np.ndarray] = {}
                for batch in _chunks(chunk, batch_size):
                    encoded = encoder.encode([by_key[key] for key in batch])
                    fresh |= dict(zip(batch, encoded, strict=True))
                    advance(len(batch), "")
                cache.write(fresh)
                vectors |= fresh
    return np.stack([vectors[key] for key in keys])


def load_embeddings(path: Path) -> Float32[np.ndarray, "N D"]:
    """Returns the vectors in an ``embeddings.safetensors``.

    Raises:
        ArtifactError: if the file is missing or damaged.
    """
    try:
        return load_file(path)["embeddings"]
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run itemic embed") from None
    except (SafetensorError, KeyError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); run itemic embed again") from None


def _make_encoder(config: EmbedConfig, folder: Path) -> TextEncoder:
    options = EncoderOptions(
        instruction=config.instruction,
        normalize=config.normalize,
        max_length=config.max_length,
        device=pick_device(config.device),
        dtype=getattr(torch, config.dtype),
    )
    if config.backend == "sentence-transformers":
        return SentenceTransformerEncoder(config.encoder, folder, options)
    pooling = sentence_pooling(folder) if config.pooling == "model" else config.pooling
    return HuggingFaceEncoder(config.encoder, folder, options, pooling=pooling)


def _fingerprint(config: EmbedConfig, folder: Path) -> str:
    """Returns the hash of all that a text's vector depends on: the encoder's files and the options that shape it."""
    options = {
        name: getattr(config, name)
        for name in ("backend", "pooling", "instruction", "normalize", "max_length", "dtype")
    }
    return text_hash(json.dumps(options, sort_keys=True), path_hash(folder))[:32]


def _chunks(keys: Sequence[str], size: int) -> list[Sequence[str]]:
    return [keys[first : first + size] for first in range(0, len(keys), size)]
