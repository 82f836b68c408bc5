"""The item vectors that are quantized, as files of the run hold them; knows nothing of codes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from itemic.core.errors import ArtifactError
from itemic.core.files import text_hash

__all__ = ["read_embeddings"]


def read_embeddings(path: Path, item_ids: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """Returns the vectors of exactly these items.

    Raises:
        ArtifactError: if the file is damaged or was made for other items.
    """
    try:
        with safe_open(path, framework="np") as stored:
            made_for = (stored.metadata() or {}).get("item_hash")
            x: np.ndarray = stored.get_tensor("embeddings")
    except SafetensorError as error:
        raise ArtifactError(f"{path}: damaged ({error}); run itemic embed again") from None
    if made_for != text_hash(*item_ids) or len(x) != len(item_ids):
        raise ArtifactError(f"{path}: made for other items than dataset/; run itemic embed again")
    return x
