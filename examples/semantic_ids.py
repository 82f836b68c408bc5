"""Semantic IDs alone: any matrix of item vectors becomes unique, fixed-length codes."""

import numpy as np

from itemic.sid import Catalog, RQKMeans, resolve_unique

rng = np.random.default_rng(0)
vectors = rng.standard_normal((1000, 32)).astype(np.float32)
quantizer = RQKMeans((16, 16, 16)).fit(vectors, rng)
codes = resolve_unique(quantizer.encode(vectors), vectors, quantizer)
catalog = Catalog(codes=codes, item_ids=[f"item {row}" for row in range(1000)], codebook_sizes=(16, 16, 16))
print(catalog, "item 0 is", catalog.sid(0), "and back:", catalog.item(catalog.sid(0)))
