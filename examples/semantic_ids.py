"""Semantic IDs alone: any matrix of item vectors becomes unique, fixed-length codes."""

import numpy as np

from itemic.sid import RQKMeans, append_items, make_catalog, measure_quality

rng = np.random.default_rng(0)
vectors = rng.standard_normal((1000, 32)).astype(np.float32)
quantizer = RQKMeans((16, 16, 16)).fit(vectors, rng)
catalog = make_catalog(quantizer, vectors, [f"item {row}" for row in range(1000)])
print(catalog, "item 0 is", catalog.sid(0), "and back:", catalog.item(catalog.sid(0)))

figures = measure_quality(quantizer.encode(vectors), catalog.codes, catalog.codebook_sizes, vectors, quantizer)
print(f"{figures['share_moved']:.1%} moved to be unique; nothing collides: {figures['collisions']['after']}")

grown = append_items(catalog, quantizer, ["a new one"], vectors[:1])
print("the twin of item 0 gets", grown.sid(1000))
