"""One k-means, by faiss: the module that imports it. Knows nothing of levels or residuals."""

import numpy as np
from jaxtyping import Float

__all__ = ["kmeans"]


def kmeans(
    x: Float[np.ndarray, "N D"], num_codes: int, num_iterations: int, num_restarts: int, *, seed: int
) -> Float[np.ndarray, "K D"]:
    """Returns ``num_codes`` centroids; empty clusters are refilled by splitting large ones.

    It starts from random items and keeps the best of some runs. On residuals one run often ends with nearly all items
    on one code. k-means++ is no cure: it starts from the outliers, which then keep a code each.
    """
    import faiss

    kmeans = faiss.Kmeans(
        x.shape[1],
        num_codes,
        niter=num_iterations,
        nredo=num_restarts,
        seed=seed,
        # Few points a code are normal for a catalogue; without this faiss complains on stderr.
        min_points_per_centroid=1,
    )
    kmeans.train(x)
    return np.asarray(kmeans.centroids, dtype=np.float32).reshape(num_codes, x.shape[1])
