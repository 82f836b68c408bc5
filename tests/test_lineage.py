"""What rows are made with, and what their training took, by manifests written by hand."""

from pathlib import Path
from typing import Any

import pytest

from itemic.core.files import write_json
from itemic.core.run import Run
from itemic.decode.title_config import TitleConfig
from itemic.lineage import blend_lineage, model_lineage, row_lineage, training_times
from itemic.recipe import ComparisonConfig


def entry(config: dict[str, Any], wall_time_s: float = 1.0, **facts: Any) -> dict[str, Any]:
    return {"inputs": {}, "outputs": {}, "metrics": {}, "wall_time_s": wall_time_s, "config": config, **facts}


def stages() -> dict[str, Any]:
    source = {"format": "examples", "train": "somewhere/train.csv"}
    training = {"max_history": 10, "dropout": 0.0}
    files = {"dataset": "dataset of this seed", "catalog": "catalog of this seed"}
    return {
        "prepare": entry({"source": source, "max_history": 10}, inputs={"train": "content of train.csv"}),
        "embed": entry({"encoder": "minilm"}, inputs={"items": "items"}),
        "tokenize": entry({"codebook_sizes": [4]}, inputs={"items": "items", "embeddings": "vectors of this seed"}),
        "align": entry(
            {"parameters": "rows"}, 50.0, cpu_time_s=40.0, inputs=dict(files), outputs={"align/model": "aligned rows"}
        ),
        "sft": entry(training, 7.0, cpu_time_s=6.0, inputs=dict(files), outputs={"model": "weights of this seed"}),
        "rl": entry(
            {"max_history": 0},
            3.0,
            cpu_time_s=2.0,
            inputs={**files, "start": "weights of this seed"},
            outputs={"rl/model": "more"},
        ),
        "blend": entry({"members": ["model", "ours"], "name": "blend", "published": "", "runs": []}),
    }


CARDS = {
    "ours": {"kind": "text-knn", "settings": {"kind": "text-knn"}},
    "plain": {"kind": "popularity", "settings": {"kind": "popularity"}},
    "coded": {"kind": "tiger", "settings": {"kind": "tiger"}},
}


def make_run(folder: Path, changed: dict[str, Any] | None = None) -> Run:
    run = Run(folder)
    for name in ("model", "rl/model", "baselines"):
        run.path(name).mkdir(parents=True)
    made = stages()
    for key, value in (changed or {}).items():
        stage, place, name = key.split("/")
        made[stage][place][name] = value
    write_json(run.manifest_path, {"stages": made})
    for row, card in CARDS.items():
        write_json(run.path(f"baselines/{row}.json"), card)
    members = {"members": ["model", "ours"], "model": "sft"}
    write_json(run.path("blend.json"), {"config": members})
    return run


def lineages(run: Run) -> dict[str, str]:
    config = ComparisonConfig()
    return {
        "sft": model_lineage(run, "sft", config, "float32"),
        "rl": model_lineage(run, "rl", config, "float32"),
        "blend": blend_lineage(run),
        **{row: row_lineage(run, card) for row, card in CARDS.items()},
    }


@pytest.mark.parametrize(
    ("changed", "others"),
    [
        ({"prepare/config/max_history": 50}, {"sft", "rl", "blend", "ours", "plain", "coded"}),
        ({"prepare/inputs/train": "other content"}, {"sft", "rl", "blend", "ours", "plain", "coded"}),
        ({"embed/config/encoder": "other"}, {"sft", "rl", "blend", "ours", "coded"}),
        ({"tokenize/config/codebook_sizes": [8]}, {"sft", "rl", "blend", "coded"}),
        ({"sft/config/dropout": 0.1}, {"sft", "rl", "blend"}),
        ({"sft/inputs/start": "aligned rows"}, {"sft", "rl", "blend"}),
        ({"rl/config/max_history": 5}, {"rl"}),
        ({"blend/config/num_folds": 3}, {"blend"}),
        # What does not matter: another seed's files, another folder of the same data, a setting that is off, a name,
        # and a stage that sft did not begin with.
        ({"sft/inputs/dataset": "dataset of another seed"}, set()),
        ({"prepare/config/source": {"format": "examples", "train": "elsewhere/train.csv"}}, set()),
        ({"prepare/config/rebuild_histories": False}, set()),
        ({"blend/config/name": "ours"}, set()),
        ({"align/config/parameters": "all"}, set()),
    ],
    ids=lambda value: (
        next(iter(value), "") if isinstance(value, dict) else f"{len(value)} others"
    ),  # sets have no order
)
def test_a_row_depends_on_what_it_was_made_with_alone(tmp_path: Path, changed, others) -> None:
    before, after = lineages(make_run(tmp_path / "a")), lineages(make_run(tmp_path / "b", changed))
    assert {name for name in before if before[name] != after[name]} == others


def test_how_a_model_answers_is_part_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    configs = [
        ComparisonConfig(),
        ComparisonConfig(num_beams=20),
        ComparisonConfig(answer="title-grounded"),
        ComparisonConfig(answer="title-grounded", titles=TitleConfig(popularity_power=0.5)),
        ComparisonConfig(answer="title-tree"),
        ComparisonConfig(answer="title-tree", titles=TitleConfig(assistant="plain")),
    ]
    found = [model_lineage(run, "sft", config, "float32") for config in configs]
    assert len({*found, model_lineage(run, "sft", configs[0], "bfloat16")}) == 1 + len(configs)


def test_the_runs_of_a_blend_count_by_what_they_are(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name).folder for name in ("b", "c")]
    paths.append(make_run(tmp_path / "other", {"sft/config/dropout": 0.3}).folder)
    run, found = make_run(tmp_path / "a"), []
    for path in paths:
        config = {"members": ["model", "ours"], "model": "sft", "runs": [str(path)]}
        write_json(run.path("blend.json"), {"config": config})
        found.append(blend_lineage(run))
    assert found[0] == found[1] != found[2]


def test_a_training_that_went_on_counts_whole(tmp_path: Path) -> None:
    assert training_times(make_run(tmp_path / "a"), "rl") == (10, 8)
    assert training_times(make_run(tmp_path / "b"), "sft") == (7, 6)
    resumed = make_run(tmp_path / "c", {"sft/metrics/train_s": 600.0})
    assert training_times(resumed, "sft") == (600, None)
    assert training_times(resumed, "rl") == (603, None)


def test_an_alignment_counts_only_where_training_began_with_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"sft/inputs/start": "aligned rows"})
    assert training_times(run, "sft") == (57, 46)
    assert training_times(make_run(tmp_path / "b"), "sft") == (7, 6)


def test_a_start_from_outside_the_run_counts_by_its_content(tmp_path: Path) -> None:
    """A model that another run trained and this one adopted is no stage of this run."""
    adopted = make_run(tmp_path / "a", {"sft/inputs/start": "another run's"})
    assert training_times(adopted, "sft") == (7, 6)
    assert lineages(adopted)["sft"] != lineages(make_run(tmp_path / "b"))["sft"]
