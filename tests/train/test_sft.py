"""The stages align and sft with a pretrained backbone: what trains, what stays, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from itemic.core.config import config_from_mapping
from itemic.core.dataset import Dataset
from itemic.core.errors import CatalogError, ConfigError
from itemic.core.run import Run
from itemic.inference import load_trained
from itemic.language.prompts import prompt_version
from itemic.language.spelling import Spelling
from itemic.model.backbone import DecoderConfig, make_decoder, make_sid_tokenizer
from itemic.model.sid_model import SidModel
from itemic.sid.catalog import Catalog
from itemic.train import sft as stage
from itemic.train.sft import SftConfig, align, sft


@pytest.fixture
def run(tmp_path: Path, dataset: Dataset, catalog: Catalog) -> Run:
    run = Run(tmp_path / "run")
    dataset.save(run.path("dataset"))
    catalog.save(run.path("catalog"))
    return run


def settings(backbone: Path | str, **changes: object) -> SftConfig:
    values = {
        "backbone": str(backbone),
        "new_rows": "mean",
        "max_history": 5,
        "stride": 5,
        "row_tokens": 800,
        "rows_per_batch": 1,
        "max_valid_examples": 4,
        "tasks": {"next_item": 0.5, "title_to_sid": 1.0, "sid_to_title": 1.0},
        "training": {"max_steps": 4, "learning_rate": 1e-2, "device": "cpu", "log_every_steps": 2},
    }
    return config_from_mapping(SftConfig, values | changes)


def test_align_moves_the_new_rows_alone_and_sft_goes_on_from_it(run: Run, backbone: Path) -> None:
    align(settings(backbone, parameters="sid-rows", new_rows="text"), run, seed=0)
    aligned = SidModel.load(run.path("align/model"))
    before = LlamaForCausalLM.from_pretrained(backbone).state_dict()
    num_old = before["model.embed_tokens.weight"].shape[0]
    for name, weight in aligned.network.state_dict().items():
        old = weight[:num_old] if name in ("model.embed_tokens.weight", "lm_head.weight") else weight
        assert torch.equal(old, before[name]), f"{name} moved"

    training = {"max_steps": 4, "device": "cpu", "gradient_checkpointing": True, "trackers": ["tensorboard"]}
    config = settings(backbone, parameters="lora", select_by="ndcg", training=training)
    result = sft(config, run, seed=0, start="align/model")
    assert result.metrics["num_steps"] == 4
    lines = [json.loads(line) for line in run.path("sft.jsonl").read_text().splitlines()]
    assert "valid_ndcg@10" in lines[-1]
    assert list(run.folder.rglob("events.out.tfevents*")), "the tracker writes into the run folder"
    trained = load_trained(run.folder, device="cpu")
    assert len(trained.recommend(["Title 3"], 3)) == 3
    moved = SidModel.load(run.path("model")).network.state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(moved[name], before[name])
    assert sft(config, run, seed=0, start="align/model").skipped


def test_sft_does_not_go_on_from_a_model_of_another_catalog(run: Run, backbone: Path, catalog: Catalog) -> None:
    align(settings(backbone, parameters="sid-rows", training={"max_steps": 1, "device": "cpu"}), run, seed=0)
    catalog.remove([0]).save(run.path("catalog"))
    with pytest.raises(CatalogError, match=r"descends from it: 0 items more, 1 retired\. Run itemic align again"):
        sft(settings(backbone), run, seed=0, start="align/model")


def test_every_task_has_a_loss_of_its_own_in_the_log(run: Run, backbone: Path) -> None:
    sft(settings(backbone), run, seed=0)
    lines = [json.loads(line) for line in run.path("sft.jsonl").read_text().splitlines()]
    seen = set().union(*lines)
    assert {"loss", "loss/title_to_sid", "loss/sid_to_title", "valid_loss"} <= seen


def test_a_changed_backbone_trains_again(run: Run, backbone: Path) -> None:
    config = settings(backbone)
    sft(config, run, seed=0)
    assert sft(config, run, seed=0).skipped
    (backbone / "note.txt").write_text("changed")
    assert not sft(config, run, seed=0).skipped


def test_what_cannot_be_honoured_is_refused(run: Run, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="needs a backbone"):
        SftConfig(parameters="lora")
    with pytest.raises(ConfigError, match="align: needs a backbone"):
        align(SftConfig(), run, seed=0)
    with pytest.raises(ConfigError, match="codebook need a catalog with a quantizer"):
        sft(settings(backbone, new_rows="codebook"), run, seed=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        sft(settings(backbone), run, seed=0)
    assert stage.__all__ == ["SftConfig", "align", "make_learner", "sft"]


def test_computing_in_bf16_stays_close_to_float32(run: Run) -> None:
    losses = []
    for precision in ("no", "bf16"):
        training = {"max_steps": 3, "device": "cpu", "mixed_precision": precision, "log_every_steps": 1}
        config = config_from_mapping(SftConfig, {"max_history": 5, "stride": 5, "training": training})
        sft(config, run, seed=0)
        lines = map(json.loads, run.path("sft.jsonl").read_text().splitlines())
        losses.append(next(line["loss"] for line in lines if "loss" in line))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]


def test_a_decoder_from_scratch_reads_words_where_it_is_given_some(run: Run) -> None:
    values = {"words": 300, "decoder": {"hidden_size": 16, "num_layers": 1, "num_heads": 2}}
    tasks = {"titles_to_title": 1.0, "titles_to_sid": 1.0, "sid_to_description": 0.5}
    result = sft(settings("", **values, tasks=tasks, select_by="ndcg"), run, seed=0)
    assert result.metrics["num_steps"] == 4
    model = SidModel.load(run.path("model"))
    assert model.prompt_mode == "chat"
    assert model.prompt_version == prompt_version(tasks)
    assert len(model.tokenizer.tokenize("What item")) == 2, "words of the catalogue are tokens"
    trained = load_trained(run.folder, device="cpu")
    assert len(trained.recommend(["Title 3"], 2)) == 2


def test_words_go_with_no_backbone_and_ndcg_with_a_task_of_semantic_ids(backbone: Path) -> None:
    with pytest.raises(ConfigError, match="words 300: expected 0 or more, and 0 with a backbone"):
        settings(backbone, words=300)
    with pytest.raises(ConfigError, match="select_by: ndcg ranks by semantic IDs"):
        settings(backbone, tasks={"titles_to_title": 1.0}, select_by="ndcg")


def test_a_decoder_may_begin_with_the_codebooks_in_the_rows_of_its_codes(catalog: Catalog) -> None:
    spelling = Spelling.of(catalog.spelling, catalog.codebook_sizes)
    tokenizer = make_sid_tokenizer(spelling)
    network = make_decoder(DecoderConfig(hidden_size=32, num_heads=2), len(tokenizer), np.random.default_rng(0))
    before = network.model.embed_tokens.weight.detach().clone()
    codebooks = [
        np.random.default_rng(level).normal(size=(4, 6)) for level in range(2)
    ]  # the third level means nothing
    stage._begin_with_codebooks(network, tokenizer, spelling, codebooks, np.random.default_rng(1))
    after = network.model.embed_tokens.weight.detach()
    coded = [tokenizer.convert_tokens_to_ids(spelling.token(level, code)) for level in (0, 1) for code in range(4)]
    others = [row for row in range(len(tokenizer)) if row not in coded]
    assert torch.equal(after[others], before[others])
    assert not torch.isclose(after[coded], before[coded]).any(dim=1).all()
    # A projection keeps what is linear: a level's centroids are centred, so its rows have the mean of the old ones.
    assert torch.allclose(after[coded[:4]].mean(dim=0), before.mean(dim=0), atol=1e-6)
    assert float(after[coded].std()) == pytest.approx(float(before.std()), rel=0.3)
