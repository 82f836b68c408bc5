import shutil

import pytest

from itemic.core.errors import ConfigError
from itemic.core.files import read_json, write_json
from itemic.core.packages import MINILM
from itemic.embed.models import longest_text, model_folder, sentence_max_length, sentence_pooling


def test_folder_is_itself(tmp_path):
    assert model_folder(str(tmp_path)) == tmp_path


def test_minilm_is_its_wheel_s_folder(tmp_path, monkeypatch):
    cached = tmp_path / "wheels" / f"{MINILM.distribution}-{MINILM.version}"
    cached.mkdir(parents=True)
    monkeypatch.setenv("ITEMIC_CACHE", str(tmp_path))
    assert model_folder("minilm") == cached


def test_what_is_neither_folder_nor_hub_id_is_refused():
    for name in ["./no/such/folder", "/no/such/folder", "a/b/c", ""]:
        with pytest.raises(ConfigError, match="no such folder, and not a hub id"):
            model_folder(name)


def test_hub_id_that_the_hub_does_not_give_is_refused():
    with pytest.raises(ConfigError, match="encoder 'nobody/nothing': no such folder, and the model hub does not give"):
        model_folder("nobody/nothing")


def test_pooling_and_limit_are_read_from_the_model_s_files(sentence_bert, plain_bert):
    assert sentence_pooling(sentence_bert) == "mean"
    assert sentence_max_length(sentence_bert) == 8
    assert sentence_max_length(plain_bert) is None
    assert longest_text(sentence_bert) == longest_text(plain_bert) == 32
    with pytest.raises(ConfigError, match="does not say how to pool"):
        sentence_pooling(plain_bert)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False, "include_prompt": True}, "last"),
        ({"pooling_mode_cls_token": True}, "cls"),
    ],
)
def test_every_way_to_state_the_pooling_is_understood(tmp_path, stated, expected):
    write_json(tmp_path / "1_Pooling" / "config.json", stated)
    assert sentence_pooling(tmp_path) == expected


def test_what_pooling_cannot_stand_for_is_refused(tmp_path, sentence_bert):
    shutil.copytree(sentence_bert, tmp_path / "dense")
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    write_json(tmp_path / "dense" / "modules.json", [*read_json(sentence_bert / "modules.json"), dense])
    with pytest.raises(ConfigError, match="set backend: sentence-transformers"):
        sentence_pooling(tmp_path / "dense")
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})
    with pytest.raises(ConfigError, match=r"pools by \['max_tokens'\]"):
        sentence_pooling(tmp_path)


def test_longest_text_is_the_least_that_any_file_states(tmp_path):
    assert longest_text(tmp_path) is None
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 10**30})
    assert longest_text(tmp_path) is None
    write_json(tmp_path / "config.json", {"max_position_embeddings": 514})
    assert longest_text(tmp_path) == 514
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 512})
    assert longest_text(tmp_path) == 512
