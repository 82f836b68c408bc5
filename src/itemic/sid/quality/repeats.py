"""How far SIDs are from unique; knows nothing of vectors."""

import numpy as np
from jaxtyping import Int

from itemic.sid.order import same_row_ids

__all__ = ["collisions"]


def collisions(codes: Int[np.ndarray, "N L"]) -> dict[str, float | int]:
    """Returns how far the rows are from unique.

    ``rate`` = (N − distinct SIDs) / N, as MiniOneRec counts; ``share_of_items`` = items whose SID another item
    carries too, over N; ``max_items`` = items on the fullest SID.
    """
    carriers = np.bincount(same_row_ids(codes))
    return {
        "rate": 1 - len(carriers) / len(codes),
        "share_of_items": float(carriers[carriers > 1].sum() / len(codes)),
        "max_items": int(carriers.max()),
    }
