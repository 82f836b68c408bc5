"""The cold-start protocol down the whole road: cold items are never learned, can be listed and are judged apart."""

import yaml

from itemic.cli.main import main
from itemic.core.dataset import Dataset
from itemic.core.files import read_json
from itemic.core.run import Run
from itemic.sid.catalog import Catalog


def test_cold_items_are_never_learned_and_always_judged(recipe, tmp_path):
    path = recipe(epochs=2)
    values = yaml.safe_load(path.read_text())
    values["prepare"]["cold"] = {"share": 0.2}
    values["baselines"] = ["popularity", "covisit-text"]
    path.write_text(yaml.safe_dump(values))
    main(["run", str(path)])
    run = Run(tmp_path / "run")
    dataset = Dataset.load(run.path("dataset"))
    cold = set(dataset.cold_items.tolist())
    assert len(cold) == 4
    assert not cold & {item for items in dataset.train_sequences().values() for item in items}
    catalog = Catalog.load(run.path("catalog"))
    assert all(catalog.items(catalog.sid(item)) == [item] for item in cold)
    metrics = read_json(run.path("metrics.json"))
    assert metrics["protocol"]["num_cold_items"] == 4
    assert list(metrics["recommenders"]) == ["itemic", "Popularity", "Co-visit KNN + text"]
    for entry in metrics["recommenders"].values():
        groups = {group["bucket"]: group for group in entry["breakdown"]["target_temperature"]}
        assert list(groups) == ["cold", "warm"]
        assert sum(group["num_examples"] for group in groups.values()) == metrics["protocol"]["num_examples"]
        assert 0 <= entry["metrics"]["Diversity@10"]["value"] <= 2
        assert 0 < entry["latency_ms"]["p50"] <= entry["latency_ms"]["p95"]
        assert entry["fit_cpu_s"] >= 0
    of_popularity = metrics["recommenders"]["Popularity"]["breakdown"]["target_temperature"]
    assert of_popularity[0]["metrics"]["HR@10"]["value"] == 0
    stages = run.manifest()["stages"]
    assert metrics["recommenders"]["itemic"]["fit_cpu_s"] == stages["sft"]["cpu_time_s"]
    page = run.path("report.html").read_text(encoding="utf-8")
    assert "Items that nobody had yet" in page
    assert "What a row costs" in page
