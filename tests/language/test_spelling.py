import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.core.errors import CatalogError, ConfigError
from itemic.language.spelling import Spelling

STYLES = st.sampled_from(["plain", "wrapped"])


def test_both_spellings_are_the_references() -> None:
    sizes = (256, 256, 256)
    assert Spelling(style="plain", codebook_sizes=sizes).write((236, 231, 226)) == "<a_236><b_231><c_226>"
    wrapped = Spelling(style="wrapped", codebook_sizes=(8192, 8192, 8192)).write((340, 6566, 5603))
    assert wrapped == "<|sid_begin|><s_a_340><s_b_6566><s_c_5603><|sid_end|>"


@given(style=STYLES, data=st.data(), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_sids_round_trip_through_text(style: str, data: st.DataObject, sizes: list[int]) -> None:
    spelling = Spelling.of(style, sizes)
    sid = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    sids = data.draw(st.lists(sid, max_size=4))
    text = "some words " + " ".join(spelling.write(sid) for sid in sids) + " more <b_"
    assert spelling.read(text) == sids


def test_every_code_has_a_token_used_or_not() -> None:
    assert Spelling(style="wrapped", codebook_sizes=(2, 1)).tokens() == [
        "<s_a_0>",
        "<s_a_1>",
        "<s_b_0>",
        "<|sid_begin|>",
        "<|sid_end|>",
    ]


def test_reading_leaves_out_partial_sids_and_codes_out_of_range() -> None:
    spelling = Spelling(style="plain", codebook_sizes=(2, 2))
    assert spelling.read("<a_0><a_1><b_1><a_5><b_0><a_1>") == [(1, 1)]


def test_impossible_sids_are_refused() -> None:
    spelling = Spelling(style="plain", codebook_sizes=(2, 2))
    with pytest.raises(CatalogError, match="no code 2 at level 1"):
        spelling.write((0, 2))
    with pytest.raises(CatalogError, match="has 1 codes, expected 2"):
        spelling.write((0,))
    with pytest.raises(ConfigError, match="1 to 26 levels"):
        Spelling(style="plain", codebook_sizes=())
    with pytest.raises(ConfigError, match="expected plain or wrapped"):
        Spelling.of("fancy", (2,))
