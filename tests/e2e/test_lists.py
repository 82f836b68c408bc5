"""Lists beyond the k best by score, and what their probabilities mean, from the command line."""

import json
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest

import itemic
from itemic.cli.main import main
from itemic.cli.model_flags import PRECISIONS
from itemic.core.errors import ArtifactError
from itemic.core.files import read_json, write_json
from itemic.decode.diversity import MarginalRelevance, PrefixQuota
from itemic.model.precision import Precision


def answer(run: Path, capsys: pytest.CaptureFixture, *flags: str) -> list[dict]:
    return whole_answer(run, capsys, *flags)["items"]


def whole_answer(run: Path, capsys: pytest.CaptureFixture, *flags: str) -> dict:
    capsys.readouterr()
    main(["recommend", "--run", str(run), "--history", "i1", "--num-beams", "20", "--json", *flags])
    return json.loads(capsys.readouterr().out)


def test_a_quota_and_mmr_by_flags_and_in_python(shop_run: Path, capsys, tmp_path: Path) -> None:
    plain = answer(shop_run, capsys, "-k", "20")
    first_code = {item["item_id"]: item["sid"].split(">")[0] for item in plain}
    expected, count = [], Counter()
    for item in plain:
        count[first_code[item["item_id"]]] += 1
        if count[first_code[item["item_id"]]] <= 2:
            expected.append(item["item_id"])
    limited = answer(shop_run, capsys, "-k", "20", "--max-per-prefix", "2")
    assert [item["item_id"] for item in limited] == expected
    assert len(expected) < len(plain)
    everything = whole_answer(shop_run, capsys, "-k", "20", "--max-per-prefix", "2")
    assert set(everything) == {"items", "num_allowed", "num_seen", "k"}
    assert (everything["num_allowed"], everything["k"]) == (len(plain), 20)
    main(["recommend", "--run", str(shop_run), "--history", "i1", "-k", "20", "--max-per-prefix", "2"])
    reason = "allowed items fit --max-per-prefix 2 and were reached"
    assert f"only {len(expected)} of {len(plain)} {reason}" in capsys.readouterr().err
    unlike = answer(shop_run, capsys, "-k", "4", "--mmr", "0")
    assert unlike[0]["item_id"] == plain[0]["item_id"]
    assert len({first_code[item["item_id"]] for item in unlike}) == min(4, len(set(first_code.values())))
    assert answer(shop_run, capsys, "-k", "4", "--mmr", "1") == plain[:4]
    both = itemic.load_trained(
        shop_run,
        num_beams=20,
        quota=PrefixQuota(max_items=1, num_levels=2),
        mmr=MarginalRelevance(trade_off=0.5, vectors=np.eye(20, dtype=np.float32)),
    )
    found = both.recommend(["i1"], 20, exclude=["i2"])
    assert "i2" not in {item.item_id for item in found}
    assert max(Counter(tuple(both.catalog.codes[int(item.item_id[1:])][:2]) for item in found).values()) == 1
    assert both.identity["quota"] == {"max_items": 1, "num_levels": 2}
    table_flags = ["--users", "all", "--out", str(tmp_path / "out.parquet"), "--max-per-prefix", "2"]
    main(["recommend", "--run", str(shop_run), "-k", "20", "--num-beams", "20", *table_flags])
    table = pl.read_parquet(tmp_path / "out.parquet")
    codes = dict(zip(both.catalog.item_ids, both.catalog.codes[:, 0].tolist(), strict=True))
    table = table.with_columns(prefix=pl.col("item_id").replace_strict(codes))
    assert table.group_by("user_id", "prefix").len()["len"].max() == 2


def test_calibrated_probabilities_are_shown_until_the_model_changes(shop_run: Path, capsys) -> None:
    before = answer(shop_run, capsys)
    main(["calibrate", "--run", str(shop_run), "--num-beams", "20", "--list-length", "20", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["dtype"] == read_json(shop_run / "calibration.json")["figures"]["dtype"] == "float32"
    assert figures["after (held out)"]["ECE"] < figures["before"]["ECE"]
    after = answer(shop_run, capsys)
    assert [item["item_id"] for item in after] == [item["item_id"] for item in before]
    trained = itemic.load_trained(shop_run, num_beams=20)
    assert trained.calibration is not None
    stated = np.array([item["probability"] for item in before])
    np.testing.assert_allclose([item["probability"] for item in after], trained.calibration.apply(stated))
    assert (np.diff([item["probability"] for item in after]) <= 0).all()
    assert answer(shop_run, capsys, "--uncalibrated") == before
    main(["calibrate", "--run", str(shop_run), "--num-beams", "20", "--list-length", "20", "--dtype", "int8"])
    assert "ECE of the first" in capsys.readouterr().out
    path = shop_run / "calibration.json"
    assert read_json(path)["figures"]["dtype"] == "int8"
    content = read_json(path)
    write_json(path, {**content, "made_for": {**content["made_for"], "model": "another"}})
    with pytest.raises(ArtifactError, match="fitted with model 'another'"):
        itemic.load_trained(shop_run)
    path.unlink()


def test_evaluation_reads_no_calibration_and_says_its_number_format(shop_run: Path) -> None:
    write_json(shop_run / "calibration.json", {"made_for": {"model": "another"}})
    main(["evaluate", "--run", str(shop_run)])
    assert read_json(shop_run / "metrics.json")["recommenders"]["itemic"]["dtype"] == "float32"
    before = read_json(shop_run / "manifest.json")["stages"]
    main(["evaluate", "--run", str(shop_run), "--dtype", "int8"])
    figures, after = read_json(shop_run / "metrics.json"), read_json(shop_run / "manifest.json")["stages"]
    assert {name for name in after if after[name] != before[name]} == {"evaluate"}
    assert [entry["dtype"] for entry in figures["recommenders"].values()] == ["int8", None, None, None]
    (shop_run / "calibration.json").unlink()


def test_normalised_over_the_vocabulary_nothing_is_calibrated(shop_run: Path, caplog, monkeypatch) -> None:
    write_json(shop_run / "calibration.json", {})
    monkeypatch.setattr("itemic.inference.log.propagate", True)
    assert itemic.load_trained(shop_run, normalize="full").calibration is None
    assert "calibration.json is for legal normalisation" in caplog.text
    (shop_run / "calibration.json").unlink()


def test_a_prefix_length_alone_is_refused(shop_run: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["recommend", "--run", str(shop_run), "--history", "i1", "--prefix-levels", "2"])
    assert "--max-per-prefix" in capsys.readouterr().err


def test_calibration_looks_at_as_many_examples_as_asked_by_the_seed(shop_run: Path, capsys) -> None:
    def fit(*flags: str) -> dict:
        main(["calibrate", "--run", str(shop_run), "--num-beams", "20", "--list-length", "20", "--json", *flags])
        return json.loads(capsys.readouterr().out)

    everything, some = fit("--max-examples", "0"), fit("--max-examples", "60", "--seed", "1")
    again, other = fit("--max-examples", "60", "--seed", "1"), fit("--max-examples", "60", "--seed", "2")
    (shop_run / "calibration.json").unlink()
    assert 0 < some["num_listed"] <= 60 * 20 < everything["num_listed"]
    assert some == again != other


def test_the_flag_offers_every_number_format_there_is() -> None:
    assert get_args(Precision) == PRECISIONS


def test_a_device_that_is_not_there_is_refused(shop_run: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["recommend", "--run", str(shop_run), "--history", "i1", "--device", "cuda:99"])
    assert "cuda:99" in capsys.readouterr().err
