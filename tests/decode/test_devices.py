"""Everything follows the model's device. The meta device has shapes only, and refuses other devices' tensors."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from itemic.decode import ItemFilter, Trie
from itemic.decode.candidates import top_places
from itemic.decode.domains import Domain, DomainForest, recommend_from_domains
from itemic.decode.item_sets import ItemSet, ItemSetTable
from itemic.decode.walk import TreeWalker

SIZES = (3, 4)
CODES = np.array([[0, 0], [0, 1], [1, 2], [2, 3], [2, 3], [2, 0]])
META = torch.device("meta")


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Returns every tensor of a record, however deep."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in tensors_of(each)]
    if isinstance(value, ItemSetTable):
        return tensors_of(list(vars(value).values()))
    if isinstance(value, (Trie, ItemFilter)):
        return tensors_of([getattr(value, field.name) for field in fields(value)])
    return []


def make_filter(trie: Trie, kind: str) -> ItemFilter:
    in_stock = ItemSet.from_mask(trie, np.arange(len(CODES)) != 1)
    lists = [[0], [3, 4]]
    return ItemFilter.from_lists(
        trie,
        2,
        exclude=lists if kind == "exclude" else None,
        allow=lists if kind == "allow" else None,
        within=[in_stock, None] if kind == "within" else None,
    )


@pytest.mark.parametrize("kind", ["exclude", "allow", "within"])
@pytest.mark.parametrize("normalize", ["legal", "full"])
def test_a_filter_made_on_the_cpu_goes_with_a_model_elsewhere(fake_policy, kind, normalize) -> None:
    trie = Trie.from_codes(CODES, SIZES)
    policy = fake_policy(SIZES)
    policy.device, policy.embedding, policy.head = META, policy.embedding.to(META), policy.head.to(META)
    walker = TreeWalker(policy, trie, normalize)
    allowed = make_filter(trie, kind)
    walk = walker.start(walker.read([[1, 2], [3]]), allowed)
    for _ in range(trie.num_levels):
        candidates = walk.candidates()
        walk.take(candidates.at(top_places(candidates.logprob.flatten(1), 3)))
    assert walk.nodes.node.device == META
    moved = allowed.move_to(walker.trie)
    assert moved.trie is walker.trie
    assert {tensor.device for tensor in tensors_of(moved)} == {META}
    assert moved.move_to(walker.trie) is moved


def test_a_forest_follows_its_model_once(fake_policy) -> None:
    policy = fake_policy(SIZES)
    levels = tuple(policy.sid_tokens.level_ids)
    forest = DomainForest([Domain(name="ad", opening_ids=(20,), level_ids=levels, codes=CODES)])
    moved = forest.to(META)
    assert forest.to(META) is moved
    assert forest.to(policy.device) is forest
    assert {tensor.device for tensor in tensors_of(moved.trie)} == {META}
    assert forest.filter([["ad"]]).trie is forest.trie


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_a_forests_filtered_lists_of_the_cpu(tiny_model) -> None:
    model = tiny_model("qwen3", SIZES)
    levels = tuple(model.sid_tokens.level_ids)
    forest = DomainForest([Domain(name="ad", opening_ids=(3,), level_ids=levels, codes=CODES)])
    given = {"domains": [["ad"], None], "exclude": [[0], [3, 4]]}
    expected = recommend_from_domains(model, [[5, 6], [7]], forest, 4, **given)
    model.network.to("cuda")
    found = recommend_from_domains(model, [[5, 6], [7]], forest, 4, **given)
    assert found.item_index.tolist() == expected.item_index.tolist()
    np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
