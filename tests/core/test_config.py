from dataclasses import dataclass, field
from typing import Literal

import pytest

from itemic.core.config import config_from_mapping, tagged_types
from itemic.core.errors import ConfigError
from itemic.recipe import Recipe
from itemic.sid import TokenizeConfig
from itemic.sid.quantizers.balanced import BalancedRQKMeansConfig


@dataclass(frozen=True, kw_only=True)
class Red:
    kind: Literal["red"] = "red"
    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class Blue:
    kind: Literal["blue"] = "blue"


@dataclass(frozen=True, kw_only=True)
class Paint:
    colour: Red | Blue = field(default_factory=Red)
    layers: int = 2
    number: int | None = None


def test_members_of_a_union_are_found_by_their_tag():
    assert tagged_types(Paint) == {"colour": {"red": Red, "blue": Blue}}
    assert tagged_types(TokenizeConfig)["quantizer"]["balanced-rqkmeans"] is BalancedRQKMeansConfig
    assert set(tagged_types(Recipe)) == {"collaborative"}


def test_a_key_is_looked_up_in_the_member_that_the_tag_names():
    values = {"quantizer": {"kind": "balanced-rqkmeans", "tolerence": 0.1}}
    with pytest.raises(ConfigError, match=r"unknown key quantizer\.tolerence; did you mean quantizer\.tolerance\?"):
        config_from_mapping(TokenizeConfig, values)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("blue", r"my\.yaml: colour: expected a mapping, found 'blue'; write \{kind: blue\}"),
        ("green", r"my\.yaml: colour: expected a mapping, found 'green'; its key kind is one of blue, red"),
        (3, "colour: expected a mapping, found 3"),
    ],
)
def test_a_bare_word_where_a_mapping_is_needed_is_answered_with_the_mapping(value, message):
    with pytest.raises(ConfigError, match=message):
        config_from_mapping(Paint, {"colour": value}, source="my.yaml")


def test_that_answer_names_the_whole_key():
    with pytest.raises(
        ConfigError, match=r"tokenize\.quantizer: expected a mapping, found 'rqvae'; write \{kind: rqvae\}"
    ):
        config_from_mapping(Recipe, {"tokenize": {"quantizer": "rqvae"}})
    with pytest.raises(ConfigError, match=r"prepare\.source: .*; write \{format: table\}"):
        config_from_mapping(Recipe, {"prepare": {"source": "table"}})


def test_a_union_without_a_tag_says_which_key_is_missing():
    with pytest.raises(ConfigError, match=r"missing key quantizer\.kind, which says what quantizer is"):
        config_from_mapping(TokenizeConfig, {"quantizer": {}})
    with pytest.raises(ConfigError, match=r"'magic'.*'rqkmeans'"):
        config_from_mapping(TokenizeConfig, {"quantizer": {"kind": "magic"}})
