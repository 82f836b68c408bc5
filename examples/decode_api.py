"""The search and the sampler themselves, on a run's own model, prompts and tree: leaves come back, items follow.

Usage: python examples/decode_api.py runs/quickstart
"""

import sys

from itemic import load_trained
from itemic.decode import constrained_beam_search, sample_without_replacement

run = load_trained(sys.argv[1], dtype="float32")
titles = run.dataset.items["title"]
histories = run.dataset.split("test")["history"].to_list()[:2]
prompts = [run.prompt(history) for history in histories]  # token ids; histories cut as in training

beams = constrained_beam_search(run.model, prompts, run.trie, num_beams=20, normalize="full")
best = run.trie.items(beams.leaf[:, :3])[..., 0]  # item indices; the last axis has the items that share a semantic ID
for items, scores in zip(best.tolist(), beams.logprob[:, :3].tolist(), strict=True):
    print("best:", [(run.catalog.item_ids[item], titles[item]) for item in items], "log p:", scores)

samples = sample_without_replacement(run.model, prompts, run.trie, 16, seed=0)
rewards = (run.trie.items(samples.leaf)[..., 0] % 2).float()  # any reward of yours; here 1 for odd item indices
print("expected reward:", samples.expectation(rewards))
