"""The stage of a blend: which models it reads and how, its file, what it counts, what it refuses."""

import numpy as np
import pytest

from itemic.core.errors import ArtifactError
from itemic.core.files import read_json, write_json
from itemic.hybrid import BlendConfig, blend, load_blend

HISTORIES = [[0, 1], [5], []]
MEMBERS = ("model", "covisit-knn")


def small(**options) -> BlendConfig:
    return BlendConfig(**{"members": MEMBERS, "num_beams": 12, "num_folds": 2, **options})


@pytest.mark.parametrize(("model", "seed"), [("sft", 0), ("rl", 1), ("last", 1)])
def test_the_model_that_is_asked_for_is_blended_in_its_own_way(run, loader, language_model, model, seed):
    blend(small(model=model), run, loader, seed=0, normalize="full")
    found = load_blend(run, loader)
    assert loader.asked == [(run.folder, model, "full")] * 2
    (member,) = (each for each in found.members if each.is_logprob)
    lists = language_model(seed, normalize="full").recommend(HISTORIES, 12)
    logprob = np.take_along_axis(member.score(HISTORIES), lists.item_index, axis=1)
    np.testing.assert_allclose(logprob, lists.score)


def test_what_decides_the_weights_is_part_of_the_stage(run, loader):
    assert not blend(small(), run, loader, seed=0).skipped
    assert blend(small(), run, loader, seed=0).skipped
    assert not blend(small(), run, loader, seed=0, normalize="full").skipped
    assert not blend(small(), run, loader, seed=0, normalize="full", dtype="bfloat16").skipped
    assert not blend(small(model="sft"), run, loader, seed=0, normalize="full", dtype="bfloat16").skipped


def test_a_blend_read_back_ranks_as_its_weights_say(run, loader):
    blend(small(members=(*MEMBERS, "dense-head")), run, loader, seed=0)
    card, first = read_json(run.path("blend.json")), load_blend(run, loader)
    assert first.weights == pytest.approx(card["weights"])
    assert set(card["valid"]["members"]) == {*MEMBERS, "dense-head"}
    np.testing.assert_allclose(np.exp(first.score(HISTORIES)).sum(axis=1), 1)
    lists = first.recommend(HISTORIES, 4, exclude=[[3], [], []])
    assert 3 not in lists.item_index[0]


@pytest.mark.parametrize(
    ("members", "num_models"), [(("model", "dense-head"), 1), (("dense-head",), 1), (("covisit-knn",), 0)]
)
def test_each_language_model_is_counted_once(run, loader, members, num_models):
    blend(small(members=members), run, loader, seed=0)
    card, found = read_json(run.path("blend.json")), load_blend(run, loader)
    own = {member.name: member.num_parameters for member in found.members}
    assert own.get("dense-head", 8 * 6) == 8 * 6, "the fake's states are 8 wide, texts 6"
    assert card["num_parameters"] == len(card["weights"]) + sum(own.values()) + 1000 * num_models


def test_a_search_under_the_prior_has_the_beams_of_the_blend(run, loader):
    """The loader's recommenders have one beam: only the config's twelve cover every level."""
    blend(small(), run, loader, seed=0)
    card = read_json(run.path("blend.json"))
    card["weights"] = {name: 0.7 if name == "model" else 0.1 for name in card["weights"]}
    best, histories = {}, [[item, other] for item in range(12) for other in range(12)]
    for search, num_beams in (("rescore", 12), ("prior", 12), ("prior", 1)):
        settings = {**card["config"], "search": search, "num_beams": num_beams}
        write_json(run.path("blend.json"), {**card, "config": settings})
        lists = load_blend(run, loader).recommend(histories, 1)
        best[search, num_beams] = lists.item_index[:, 0].tolist()
    assert best["prior", 12] == best["rescore", 12] != best["prior", 1]


def test_a_blend_of_other_members_or_of_an_earlier_format_is_refused(run, loader):
    blend(small(members=(*MEMBERS, "dense-head")), run, loader, seed=0)
    card, manifest = read_json(run.path("blend.json")), run.manifest()
    write_json(run.path("blend.json"), {**card, "format": 1})
    with pytest.raises(ArtifactError, match="expected format 2, found 1; run itemic blend again"):
        load_blend(run, loader)
    write_json(run.path("blend.json"), card)
    manifest["stages"]["rl"]["outputs"]["rl/model"] = "trained again"
    write_json(run.manifest_path, manifest)
    with pytest.raises(ArtifactError, match="model changed since the blend was fitted"):
        load_blend(run, loader)


def test_models_of_further_runs_must_know_the_same_items(run, loader, make_dataset, tmp_path):
    make_dataset([[0, 1, 2, 3]], 4).save(tmp_path / "other" / "dataset")
    other = run.folder.parent / "other"
    manifest = run.manifest()
    write_json(other / "manifest.json", manifest)
    (other / "model").mkdir()
    (other / "rl" / "model").mkdir(parents=True)
    (other / "rl" / "model" / "weights").write_text("")
    with pytest.raises(ArtifactError, match="a run of other items"):
        blend(small(runs=(str(other),)), run, loader, seed=0)
