import numpy as np
import polars as pl
import pytest

from itemic.core.errors import ArtifactError, CatalogError, ConfigError, DataError
from itemic.core.files import read_json, text_hash, write_arrays, write_parquet
from itemic.core.run import Run
from itemic.sid import Catalog, RQKMeansConfig, TokenizeConfig, load_quantizer, tokenize
from itemic.sid.quantizers.rqvae import RQVAEConfig
from itemic.sid.vectors import (
    CollaborativeItems,
    JointVectors,
    TextTransform,
    fit_transform,
    load_transform,
    read_collaborative,
    write_collaborative,
)


def gaps(x):
    """Squared distances between all pairs: the geometry that a quantizer sees."""
    return np.square(x[:, None] - x[None]).sum(axis=2)


def mean_square(x):
    return float(np.square(x - x.mean(axis=0)).sum(axis=1).mean())


def parts(num_items=60, *, unseen=0, seed=0):
    """Text 5 wide, and collaborative vectors 3 wide that are linear in it; the last items are not seen."""
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(num_items, 5)).astype(np.float32) * [3, 2, 1, 1, 1] + 4
    vectors = (text @ rng.normal(size=(5, 3)) - 7).astype(np.float32)
    seen = np.arange(num_items) < num_items - unseen
    return text.astype(np.float32), CollaborativeItems(vectors=vectors * seen[:, None], seen=seen), vectors


def test_weights_0_and_1_give_the_geometry_of_one_part():
    text, collaborative, _ = parts()
    for weight, part in [(0.0, text), (1.0, collaborative.vectors)]:
        joint = fit_transform(JointVectors(collaborative_weight=weight), text, collaborative)
        x = joint.transform(text, collaborative)
        assert x.shape == part.shape
        np.testing.assert_allclose(gaps(x), gaps(part) / mean_square(part), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("weight", [0.25, 0.5])
def test_each_part_has_its_share_of_the_squared_length(weight):
    text, collaborative, _ = parts()
    x = fit_transform(JointVectors(collaborative_weight=weight), text, collaborative).transform(text, collaborative)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    assert np.square(x[:, :5]).sum(axis=1).mean() == pytest.approx(1 - weight, rel=1e-5)
    assert np.square(x[:, 5:]).sum(axis=1).mean() == pytest.approx(weight, rel=1e-5)
    expected = (1 - weight) * gaps(text) / mean_square(text)
    expected += weight * gaps(collaborative.vectors) / mean_square(collaborative.vectors)
    np.testing.assert_allclose(gaps(x), expected, rtol=1e-3, atol=1e-4)


def test_unseen_items_get_exactly_what_a_linear_text_says():
    text, collaborative, truth = parts(unseen=20)
    joint = fit_transform(JointVectors(collaborative_weight=1.0), text, collaborative)
    x = joint.transform(text, collaborative)
    np.testing.assert_allclose(x / joint.collaborative_scale + joint.collaborative_mean, truth, atol=2e-3)
    np.testing.assert_allclose(joint.transform(text), x, atol=1e-3)


def test_a_text_that_says_nothing_predicts_the_mean():
    rng = np.random.default_rng(1)
    text = rng.normal(size=(400, 5)).astype(np.float32)
    vectors = rng.normal(size=(400, 3)).astype(np.float32)
    joint = fit_transform(
        JointVectors(collaborative_weight=1.0), text, CollaborativeItems(vectors=vectors, seen=np.ones(400, dtype=bool))
    )
    assert np.square(joint.transform(text)).sum(axis=1).mean() < 0.02, "GCV takes a large penalty, not an overfit"


def test_the_penalty_is_the_one_that_leaving_one_out_prefers():
    """GCV against explicit leave-one-out on data with noise: the chosen fit is within 2% of the best of the grid."""
    rng = np.random.default_rng(2)
    text = rng.normal(size=(60, 8)).astype(np.float32)
    vectors = (text @ rng.normal(size=(8, 2)) + 3 * rng.normal(size=(60, 2))).astype(np.float32)
    joint = fit_transform(JointVectors(), text, CollaborativeItems(vectors=vectors, seen=np.ones(60, dtype=bool)))
    x, y = text - text.mean(axis=0), vectors - vectors.mean(axis=0)

    def left_out(penalty):
        hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(8), x.T) + 1 / 60
        return np.square((y - hat @ y) / (1 - np.diag(hat))[:, None]).mean(), np.linalg.solve(
            x.T @ x + penalty * np.eye(8), x.T @ y
        )

    mean_eigenvalue = np.trace(x.T @ x) / 8
    tried = [left_out(mean_eigenvalue * 10.0**power) for power in range(-6, 4)]
    errors = [error for error, _ in tried]
    (chosen,) = [i for i, (_, fit) in enumerate(tried) if np.allclose(fit, joint.prediction, atol=1e-5)]
    assert errors[chosen] <= 1.02 * min(errors)


def test_principal_components_keep_the_widest_directions():
    text, collaborative, _ = parts()
    joint = fit_transform(JointVectors(collaborative_weight=0.0, text_dimensions=2), text, collaborative)
    x = joint.transform(text, collaborative)
    values = np.linalg.eigvalsh(np.cov(text.T, bias=True))[::-1][:2]
    np.testing.assert_allclose(np.var(x, axis=0), values / values.sum(), rtol=1e-3)


def test_a_saved_transform_is_the_same_and_no_file_is_text(tmp_path):
    text, collaborative, _ = parts(unseen=5)
    for config in (JointVectors(), JointVectors(text_dimensions=2, collaborative_weight=0.3)):
        joint = fit_transform(config, text, collaborative)
        joint.save(tmp_path / "vectors.safetensors")
        loaded = load_transform(tmp_path / "vectors.safetensors")
        assert loaded.config == config
        np.testing.assert_array_equal(loaded.transform(text, collaborative), joint.transform(text, collaborative))
    assert load_transform(tmp_path / "nothing") == TextTransform()
    assert TextTransform().transform(text) is text
    (tmp_path / "broken").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="run itemic tokenize again"):
        load_transform(tmp_path / "broken")
    assert joint.transform(text[:0]).shape == (0, 5)


def test_memory_maps_of_half_precision_are_read_in_pieces(tmp_path, monkeypatch):
    text, collaborative, _ = parts(unseen=7)
    half = np.memmap(tmp_path / "half", dtype=np.float16, mode="w+", shape=text.shape)
    half[:] = text
    whole = fit_transform(JointVectors(), half, collaborative)
    for module in ("vectors", "ridge"):
        monkeypatch.setattr(f"itemic.sid.{module}.pieces", lambda n: [slice(i, i + 13) for i in range(0, n, 13)])
    joint = fit_transform(JointVectors(), half, collaborative)
    np.testing.assert_allclose(joint.transform(half, collaborative), whole.transform(half, collaborative), atol=1e-4)


def test_what_does_not_fit_is_refused():
    text, collaborative, _ = parts()
    with pytest.raises(ConfigError, match="collaborative_weight: expected 0 to 1"):
        JointVectors(collaborative_weight=1.5)
    with pytest.raises(ConfigError, match="text_dimensions: expected 0"):
        JointVectors(text_dimensions=-1)
    with pytest.raises(ConfigError, match="text_dimensions 6: the embeddings have 5"):
        fit_transform(JointVectors(text_dimensions=6), text, collaborative)
    nobody = CollaborativeItems(vectors=collaborative.vectors, seen=np.zeros(60, dtype=bool))
    with pytest.raises(DataError, match="at least two seen"):
        fit_transform(JointVectors(), text, nobody)
    with pytest.raises(DataError, match="are equal"):
        fit_transform(JointVectors(), np.ones_like(text), collaborative)
    joint = fit_transform(JointVectors(), text, collaborative)
    with pytest.raises(CatalogError, match="text embeddings 5 wide, found 4"):
        joint.transform(text[:, :4])
    with pytest.raises(CatalogError, match=r"expected \(2, 3\), found \(60, 3\)"):
        joint.transform(text[:2], collaborative)


JOINT = TokenizeConfig(vectors=JointVectors(), codebook_sizes=(4, 4, 4), quantizer=RQKMeansConfig(num_iterations=3))


def make_run(folder, collaborative=None):
    run = Run(folder)
    text, made, _ = parts(40)
    ids = [f"id {row}" for row in range(40)]
    write_parquet(run.path("dataset") / "items.parquet", pl.DataFrame({"item_index": range(40), "item_id": ids}))
    write_arrays(run.path("embeddings.safetensors"), {"embeddings": text}, {"item_hash": text_hash(*ids)})
    write_collaborative(run.path("collaborative.safetensors"), collaborative or made, ids, "svd")
    return run, text, made


def test_joint_vectors_are_what_the_catalog_is_made_of(tmp_path):
    run, text, made = make_run(tmp_path)
    tokenize(JOINT, run, seed=0)
    folder = run.path("catalog")
    x = load_transform(folder / "vectors.safetensors").transform(text, made)
    quantizer = load_quantizer(folder / "quantizer.safetensors")
    assert quantizer.codebooks[0].shape[1] == 8
    codes = quantizer.encode(x)
    moved = (codes != Catalog.load(folder).codes).any(axis=1).mean()
    assert moved == read_json(folder / "quality.json")["share_moved"]
    assert tokenize(JOINT, run, seed=0).skipped


def test_collaborative_vectors_count_only_where_they_are_used(tmp_path):
    run, _, made = make_run(tmp_path)
    other = CollaborativeItems(vectors=made.vectors[::-1].copy(), seen=made.seen)
    text_only = TokenizeConfig(codebook_sizes=(4, 4, 4), quantizer=JOINT.quantizer)
    tokenize(text_only, run, seed=0)
    assert not run.path("catalog/vectors.safetensors").exists()
    make_run(tmp_path, other)
    assert tokenize(text_only, run, seed=0).skipped
    tokenize(JOINT, run, seed=0)
    make_run(tmp_path, made)
    assert not tokenize(JOINT, run, seed=0).skipped


def test_letter_s_term_gets_the_collaborative_vectors(tmp_path):
    """The codes of text vectors then depend on the log, and are not vectors of another width."""
    run, _, made = make_run(tmp_path)
    settings = {"epochs": 2, "hidden_sizes": (8,), "latent_size": 4, "device": "cpu"}
    quantizer = RQVAEConfig(collaborative_weight=1.0, **settings)
    config = TokenizeConfig(codebook_sizes=(4, 4, 4), quantizer=quantizer)
    assert config.needs_collaborative
    assert not TokenizeConfig(source="given", quantizer=quantizer).needs_collaborative
    versions = []
    for vectors in (made.vectors, made.vectors[::-1].copy()):
        make_run(tmp_path, CollaborativeItems(vectors=vectors, seen=made.seen))
        tokenize(config, run, seed=0)
        versions.append((run.path("catalog") / "quantizer.safetensors").read_bytes())
    assert versions[0] != versions[1]
    assert not (run.path("catalog") / "vectors.safetensors").exists()
    run.path("collaborative.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"add the section\s+collaborative to the recipe"):
        tokenize(config, run, seed=0)


def test_a_missing_or_foreign_file_names_the_remedy(tmp_path):
    run, *_ = make_run(tmp_path)
    path = run.path("collaborative.safetensors")
    with pytest.raises(ArtifactError, match="made for other items than dataset/; run itemic collaborative again"):
        read_collaborative(path, ["another"] * 40)
    path.unlink()
    with pytest.raises(ArtifactError, match=r"add the section\s+collaborative to the recipe"):
        tokenize(JOINT, run, seed=0)
    path.write_bytes(b"no")
    with pytest.raises(ArtifactError, match=r"damaged .* run itemic collaborative again"):
        tokenize(JOINT, run, seed=0)
    with pytest.raises(ConfigError, match="needs source embeddings"):
        TokenizeConfig(source="given", vectors=JointVectors())
