"""The trained model that a stage starts from, checked to be of this run's catalog and prompts; knows no training."""

from collections.abc import Iterable
from pathlib import Path

import torch

from itemic.core.errors import ArtifactError, CatalogError
from itemic.language.prompts import is_current_version, prompt_version
from itemic.model.sid_model import SidModel
from itemic.sid.catalog import Catalog
from itemic.sid.lineage import describe_change

__all__ = ["load_start"]


def load_start(path: Path, catalog: Catalog, device: torch.device, *, stage: str, tasks: Iterable[str]) -> SidModel:
    """Returns the model that an earlier stage wrote.

    Args:
        path: Its folder.
        catalog: The run's.
        device: Where to put it.
        stage: Command that makes such a model, for messages.
        tasks: What it will be taught now.

    Raises:
        ArtifactError: if it is missing, damaged or was trained with prompts of another version.
        CatalogError: if it speaks another catalog.
    """
    model = SidModel.load(path, device)
    if model.catalog_version != catalog.version:
        raise CatalogError(
            f"{path} was trained on catalog {model.catalog_version[:12]!r}; the run's, {catalog.version[:12]!r}, "
            f"{describe_change(catalog, model.catalog_version)}. Run itemic {stage} again"
        )
    if not is_current_version(model.prompt_version):
        raise ArtifactError(f"{path}: trained with prompts of another version; run itemic {stage} again")
    model.prompt_version = prompt_version(tasks, model.prompt_version)
    return model
