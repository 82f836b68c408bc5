import logging

import numpy as np
import polars as pl
import pytest

from itemic.core.config import config_from_mapping
from itemic.core.errors import ArtifactError, CatalogError, ConfigError
from itemic.core.files import read_json, text_hash, write_arrays, write_parquet
from itemic.core.run import Run
from itemic.decode.trie import Trie
from itemic.sid import Catalog, RQKMeansConfig, TokenizeConfig, load_quantizer, tokenize
from itemic.sid.vectors import read_embeddings

SMALL = {"codebook_sizes": (4, 4, 4), "quantizer": RQKMeansConfig(num_iterations=3)}


def write_vectors(run, x, item_ids):
    write_arrays(run.path("embeddings.safetensors"), {"embeddings": x}, {"item_hash": text_hash(*item_ids)})


def make_run(folder, num_items=40, *, embeddings=True, given=None):
    """A run folder as the stages before leave it; every other item's vector is that of the item before."""
    run = Run(folder)
    items = pl.DataFrame({"item_index": range(num_items), "item_id": [f"id {row}" for row in range(num_items)]})
    write_parquet(run.path("dataset") / "items.parquet", items)
    if embeddings:
        x = np.random.default_rng(3).normal(size=((num_items + 1) // 2, 6)).astype(np.float32)
        write_vectors(run, np.repeat(x, 2, axis=0)[:num_items], items["item_id"])
    if given is not None:
        table = pl.DataFrame(
            {"item_index": range(len(given)), "codes": given}, schema_overrides={"item_index": pl.Int64}
        )
        write_parquet(run.path("given_sids.parquet"), table)
    return run


def test_catalog_is_unique_and_its_figures_say_what_it_took(tmp_path):
    run = make_run(tmp_path)
    result = tokenize(TokenizeConfig(**SMALL), run, seed=0)
    catalog = Catalog.load(run.path("catalog"))
    assert len(np.unique(catalog.codes, axis=0)) == 40
    assert catalog.item_ids == tuple(f"id {row}" for row in range(40))
    assert (catalog.codebook_sizes, catalog.spelling, catalog.shares) == ((4, 4, 4), "plain", False)
    figures = read_json(run.path("catalog") / "quality.json")
    assert figures["collisions"]["before"]["rate"] >= 1 / 2
    assert figures["collisions"]["after"]["rate"] == 0
    assert figures["share_moved"] >= 1 / 2
    assert figures["reconstruction"]["before"]["relative"] < figures["reconstruction"]["after"]["relative"]
    assert result.metrics["collision_rate_after"] == 0
    assert result.metrics["catalog_version"] == catalog.version
    assert load_quantizer(run.path("catalog") / "quantizer.safetensors").codebook_sizes == (4, 4, 4)


def test_shared_catalog_keeps_the_quantizer_s_codes(tmp_path):
    run = make_run(tmp_path)
    tokenize(TokenizeConfig(**SMALL, collisions="share", spelling="wrapped"), run, seed=0)
    catalog = Catalog.load(run.path("catalog"))
    assert (catalog.shares, catalog.spelling) == (True, "wrapped")
    assert catalog.items(catalog.sid(0))[:2] == [0, 1]
    assert read_json(run.path("catalog") / "quality.json")["share_moved"] == 0


def test_same_seed_same_catalog_and_nothing_runs_twice(tmp_path):
    versions = []
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        run = make_run(tmp_path / name)
        tokenize(TokenizeConfig(**SMALL), run, seed=seed)
        versions.append(Catalog.load(run.path("catalog")).version)
    assert versions[0] == versions[1] != versions[2]
    assert tokenize(TokenizeConfig(**SMALL), run, seed=1).skipped
    assert not tokenize(TokenizeConfig(**SMALL), run, seed=1, force=True).skipped
    assert not tokenize(TokenizeConfig(**SMALL, spelling="wrapped"), run, seed=1).skipped


def test_given_sids_are_adopted_as_they_are(tmp_path):
    given = [[0, 1], [3, 0], [0, 2]]
    run = make_run(tmp_path, 3, embeddings=False, given=given)
    result = tokenize(TokenizeConfig(source="given", codebook_sizes=(4, 3)), run, seed=0)
    assert Catalog.load(run.path("catalog")).codes.tolist() == given
    assert result.metrics["relative_error_before"] is None
    assert not (run.path("catalog") / "quantizer.safetensors").exists()


def test_given_sids_that_collide_are_resolved_by_the_embeddings(tmp_path):
    run = make_run(tmp_path, 5, given=[[0, 1], [0, 1], [0, 1], [1, 2], [2, 0]])
    tokenize(TokenizeConfig(source="given", codebook_sizes=(3, 3)), run, seed=0)
    codes = Catalog.load(run.path("catalog")).codes
    assert len(np.unique(codes, axis=0)) == 5
    assert codes[3:].tolist() == [[1, 2], [2, 0]]
    assert codes[:3, 0].tolist() == [0, 0, 0]


def test_given_sids_that_collide_can_be_shared_without_embeddings(tmp_path):
    run = make_run(tmp_path, 2, embeddings=False, given=[[0, 1], [0, 1]])
    config = TokenizeConfig(source="given", codebook_sizes=(3, 3))
    with pytest.raises(CatalogError, match=r"rate 50.00%\) and making them unique needs embeddings.safetensors"):
        tokenize(config, run, seed=0)
    tokenize(TokenizeConfig(source="given", codebook_sizes=(3, 3), collisions="share"), run, seed=0)
    assert Catalog.load(run.path("catalog")).items((0, 1)) == [0, 1]


def test_codes_past_the_last_level_are_dropped_and_said_so(tmp_path, caplog):
    run = make_run(tmp_path, 3, given=[[0, 1], [0, 1, 7], [2, 2]])
    with caplog.at_level(logging.WARNING, logger="itemic"):
        tokenize(TokenizeConfig(source="given", codebook_sizes=(3, 3)), run, seed=0)
    assert "1 SIDs have more than 2 codes" in caplog.text
    assert len(np.unique(Catalog.load(run.path("catalog")).codes, axis=0)) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[0, 1], [0]], "item row 1 has 1 codes, codebook_sizes has 2 levels"),
        ([[0, 1], [0, 5]], r"codes reach \[0, 5\] and begin at \[0, 1\], but codebook_sizes \(3, 3\)"),
        ([[0, 1]], r"one SID for each of 2 items, but item rows \[1\]"),
        ([[0, 1], [0, 2], [1, 1]], "one SID for each of 2 items, but it has 3 rows"),
    ],
)
def test_given_sids_that_do_not_fit_are_refused(tmp_path, given, message):
    run = make_run(tmp_path, 2, given=given)
    with pytest.raises(CatalogError, match=message):
        tokenize(TokenizeConfig(source="given", codebook_sizes=(3, 3)), run, seed=0)


def test_missing_or_stale_artefacts_name_the_stage_to_run(tmp_path):
    with pytest.raises(ArtifactError, match="run itemic prepare first"):
        tokenize(TokenizeConfig(**SMALL), Run(tmp_path / "empty"), seed=0)
    run = make_run(tmp_path / "no vectors", embeddings=False)
    with pytest.raises(ArtifactError, match="run itemic embed first"):
        tokenize(TokenizeConfig(**SMALL), run, seed=0)
    with pytest.raises(ArtifactError, match=r"given_sids.parquet: missing"):
        tokenize(TokenizeConfig(**SMALL, source="given"), run, seed=0)
    run = make_run(tmp_path / "damaged")
    run.path("embeddings.safetensors").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"damaged .* run itemic embed again"):
        tokenize(TokenizeConfig(**SMALL), run, seed=0)


def renamed(order):
    return [f"id {row}" for row in order]


@pytest.mark.parametrize("order", [range(39), range(41), [1, 0, *range(2, 40)]], ids=["fewer", "more", "other order"])
def test_vectors_of_other_items_are_refused(tmp_path, order):
    run = make_run(tmp_path)
    write_vectors(run, np.ones((len(order), 6), dtype=np.float32), renamed(order))
    with pytest.raises(ArtifactError, match="made for other items than dataset/; run itemic embed again"):
        tokenize(TokenizeConfig(**SMALL), run, seed=0)


def test_vectors_of_unknown_items_are_refused(tmp_path):
    run = make_run(tmp_path)
    write_arrays(run.path("embeddings.safetensors"), {"embeddings": np.ones((40, 6), dtype=np.float32)})
    with pytest.raises(ArtifactError, match="made for other items"):
        tokenize(TokenizeConfig(**SMALL), run, seed=0)


def test_given_sids_do_without_vectors_of_other_items_unless_they_collide(tmp_path, caplog):
    stale = np.ones((2, 6), dtype=np.float32)
    run = make_run(tmp_path / "distinct", 2, given=[[0, 1], [0, 2]])
    write_vectors(run, stale, ["id 1", "id 0"])
    config = TokenizeConfig(source="given", codebook_sizes=(3, 3))
    with caplog.at_level(logging.WARNING, logger="itemic"):
        tokenize(config, run, seed=0)
    assert "made for other items" in caplog.text
    assert read_json(run.path("catalog") / "quality.json")["reconstruction"] is None
    run = make_run(tmp_path / "colliding", 2, given=[[0, 1], [0, 1]])
    write_vectors(run, stale, ["id 1", "id 0"])
    with pytest.raises(ArtifactError, match="made for other items"):
        tokenize(config, run, seed=0)


def test_codebooks_larger_than_the_catalogue_are_refused(tmp_path):
    with pytest.raises(CatalogError, match="need at least 256 items to learn from, found 40"):
        tokenize(TokenizeConfig(), make_run(tmp_path), seed=0)


def test_config_comes_from_yaml_values_and_refuses_nonsense():
    config = config_from_mapping(TokenizeConfig, {"codebook_sizes": [64, 64], "collisions": "share"})
    assert config == TokenizeConfig(codebook_sizes=(64, 64), collisions="share")
    for values, message in [
        ({"codebook_sizes": []}, "at least one level"),
        (
            {"quantizer": {"kind": "rqkmeans", "num_iterations": 0}},
            "num_iterations 0: expected at least 1",
        ),
        ({"quantizer": {"kind": "rqkmeans", "num_restart": 0}}, r"quantizer\.num_restart; did you mean"),
        ({"quantizer": "magic"}, "quantizer"),
        ({"levels": 3}, "unknown key levels"),
    ]:
        with pytest.raises(ConfigError, match=message):
            config_from_mapping(TokenizeConfig, values)


def test_retired_items_stay_retired_and_the_old_page_goes(tmp_path):
    run = make_run(tmp_path)
    tokenize(TokenizeConfig(**SMALL), run, seed=0)
    Catalog.load(run.path("catalog")).remove([3, 5]).save(run.path("catalog"))
    run.path("sids.html").write_text("of the old codes")
    tokenize(TokenizeConfig(**SMALL), run, seed=1)
    catalog = Catalog.load(run.path("catalog"))
    assert np.flatnonzero(~catalog.active).tolist() == [3, 5]
    assert not run.path("sids.html").exists()


def test_a_damaged_catalog_is_replaced_with_a_warning(tmp_path, caplog):
    run = make_run(tmp_path)
    tokenize(TokenizeConfig(**SMALL), run, seed=0)
    (run.path("catalog") / "catalog.parquet").unlink()
    with caplog.at_level(logging.WARNING, logger="itemic"):
        tokenize(TokenizeConfig(**SMALL), run, seed=0)
    assert "active again" in caplog.text
    assert Catalog.load(run.path("catalog")).active.all()


def test_a_quantizer_that_does_not_fit_its_sizes_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="grid"):
        config_from_mapping(TokenizeConfig, {"quantizer": {"kind": "rqkmeans-fsq", "grid": [3, 3]}})


@pytest.mark.parametrize("collisions", ["unique", "share"])
def test_cold_items_are_coded_by_what_the_warm_ones_taught(tmp_path, collisions):
    run, alone = make_run(tmp_path / "all"), make_run(tmp_path / "alone", embeddings=False)
    is_cold = np.arange(40) % 5 == 1
    items = pl.read_parquet(run.path("dataset") / "items.parquet")
    write_parquet(run.path("dataset") / "items.parquet", items.with_columns(pl.Series("is_cold", is_cold)))
    warm_items = items.filter(~is_cold).with_columns(pl.int_range(pl.len()).alias("item_index"))
    write_parquet(alone.path("dataset") / "items.parquet", warm_items)
    x = read_embeddings(run.path("embeddings.safetensors"), items["item_id"].to_list())
    write_vectors(alone, np.ascontiguousarray(x[~is_cold]), warm_items["item_id"])
    config = TokenizeConfig(**SMALL, collisions=collisions)
    for each in (run, alone):
        tokenize(config, each, seed=0)
    catalog, warm = (Catalog.load(each.path("catalog")) for each in (run, alone))
    assert catalog.codes[~is_cold].tolist() == warm.codes.tolist()
    assert catalog.item_ids == tuple(items["item_id"])
    quantizer = load_quantizer(run.path("catalog") / "quantizer.safetensors")
    np.testing.assert_array_equal(
        quantizer.encode(x), load_quantizer(alone.path("catalog") / "quantizer.safetensors").encode(x)
    )
    if collisions == "share":
        assert catalog.codes[is_cold].tolist() == quantizer.encode(x[is_cold]).tolist()
    else:
        assert len(np.unique(catalog.codes, axis=0)) == 40
    trie = Trie.from_catalog(catalog)
    assert (trie.slot_of_item.numpy() >= 0).all()


def test_given_sids_are_kept_for_cold_items_and_said_so(tmp_path, caplog):
    run = make_run(tmp_path, 3, embeddings=False, given=[[0, 1], [3, 0], [0, 2]])
    items = pl.read_parquet(run.path("dataset") / "items.parquet").with_columns(
        pl.Series("is_cold", [False, True, False])
    )
    write_parquet(run.path("dataset") / "items.parquet", items)
    tokenize(TokenizeConfig(source="given", codebook_sizes=(4, 3)), run, seed=0)
    assert "may have learned from the cold items as well" in caplog.text
    assert Catalog.load(run.path("catalog")).codes.tolist() == [[0, 1], [3, 0], [0, 2]]
