from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import DataError
from itemic.language.spelling import Spelling
from itemic.model.new_rows import codebook_rows, mean_rows, text_rows

WRAPPED = Spelling(style="wrapped", codebook_sizes=(2, 3))
PLAIN = Spelling(style="plain", codebook_sizes=(2, 3))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def table(num_rows: int = 50, width: int = 8) -> torch.Tensor:
    return torch.from_numpy(rng(9).normal(2.0, 3.0, (num_rows, width))).float()


def test_mean_rows_lie_around_the_mean_and_differ():
    old = table()
    spelling = Spelling(style="plain", codebook_sizes=(500, 500))
    rows = mean_rows(old, spelling, rng())
    assert rows.shape == (1000, 8)
    torch.testing.assert_close(rows.mean(dim=0), old.mean(dim=0), atol=0.05, rtol=0)
    spread = rows.std(dim=0) / old.std(dim=0, correction=0)
    torch.testing.assert_close(spread, torch.full((8,), 0.1), atol=0.02, rtol=0)
    assert torch.equal(rows, mean_rows(old, spelling, rng()))
    assert not torch.equal(rows, mean_rows(old, spelling, rng(1)))


def test_text_rows_by_hand():
    old = torch.tensor([[0.0, 1.0], [2.0, 0.0], [4.0, 8.0], [6.0, 3.0]])
    codes = np.array([[0, 2], [0, 1], [1, 2], [1, 0]])
    token_ids = [[0, 1], [2], [1, 2, 3], []]  # means (1, 1/2), (4, 8), (4, 11/3); the last item has no text
    rows = text_rows(old, WRAPPED, rng(), codes=codes, token_ids=token_ids)
    assert rows.shape == (7, 2)
    expected = {
        0: (Fraction(5, 2), Fraction(17, 4)),
        1: (Fraction(4), Fraction(11, 3)),
        3: (Fraction(4), Fraction(8)),
        4: (Fraction(5, 2), Fraction(25, 12)),
    }
    for row, values in expected.items():
        torch.testing.assert_close(rows[row], torch.tensor([float(value) for value in values]))
    fallback = mean_rows(old, WRAPPED, rng())
    for row in (2, 5, 6):  # a code whose only item has no text, and the wrappers
        assert torch.equal(rows[row], fallback[row])


def test_text_rows_without_any_text_are_mean_rows():
    codes = np.array([[0, 0], [1, 1]])
    rows = text_rows(table(), PLAIN, rng(), codes=codes, token_ids=[[], []])
    assert torch.equal(rows, mean_rows(table(), PLAIN, rng()))


def test_text_rows_need_a_text_for_each_item():
    with pytest.raises(DataError, match="a text for each of 2 items, found 1"):
        text_rows(table(), PLAIN, rng(), codes=np.array([[0, 0], [1, 1]]), token_ids=[[1]])


@settings(max_examples=25)
@given(data=st.data())
def test_text_rows_lie_within_the_old_rows(data):
    num_items = data.draw(st.integers(1, 12))
    codes = data.draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=num_items, max_size=num_items))
    bags = st.lists(st.integers(0, 49), min_size=1, max_size=5)
    token_ids = data.draw(st.lists(bags, min_size=num_items, max_size=num_items))
    old = table()
    rows = text_rows(old, PLAIN, rng(), codes=np.array(codes), token_ids=token_ids)
    used = sorted({code[0] for code in codes} | {2 + code[1] for code in codes})
    assert (rows[used] <= old.max(dim=0).values + 1e-4).all()
    assert (rows[used] >= old.min(dim=0).values - 1e-4).all()


def test_codebook_rows_have_the_old_mean_and_half_its_spread_at_every_level():
    spelling = Spelling(style="wrapped", codebook_sizes=(64, 64))
    coarse = rng(1).normal(5.0, 4.0, (64, 12))
    fine = rng(2).normal(0.0, 0.1, (64, 12))
    old = table()
    rows = codebook_rows(old, spelling, rng(), codebooks=[coarse, fine])
    assert rows.shape == (130, 8)
    for level in (rows[:64], rows[64:128]):
        torch.testing.assert_close(level.mean(dim=0), old.mean(dim=0), atol=1e-4, rtol=1e-4)
        standardised = (level - old.mean(dim=0)) / old.std(dim=0, correction=0)
        torch.testing.assert_close(standardised.square().mean(), torch.tensor(1 / 4))
    assert torch.equal(rows[128:], mean_rows(old, spelling, rng())[128:])


def test_codebook_rows_keep_distances_in_proportion():
    spelling = Spelling(style="plain", codebook_sizes=(40,))
    codebook = rng(3).normal(size=(40, 16))
    old = torch.from_numpy(rng(4).normal(size=(200, 2048))).float()
    rows = codebook_rows(old, spelling, rng(), codebooks=[codebook]).double()
    before = torch.cdist(torch.from_numpy(codebook), torch.from_numpy(codebook))
    pairs = torch.ones(40, 40, dtype=torch.bool).triu(1)
    ratio = torch.cdist(rows, rows)[pairs] / before[pairs]
    assert ratio.std() / ratio.mean() < 0.1


def test_codebook_of_one_code_gets_a_mean_row():
    spelling = Spelling(style="plain", codebook_sizes=(1,))
    rows = codebook_rows(table(), spelling, rng(), codebooks=[np.ones((1, 4))])
    assert torch.equal(rows, mean_rows(table(), spelling, rng()))


def test_codebooks_must_be_the_spellings():
    with pytest.raises(DataError, match=r"sizes \(2, 3\), found \(2, 4\)"):
        codebook_rows(table(), PLAIN, rng(), codebooks=[np.ones((2, 4)), np.ones((4, 4))])


def test_levels_after_the_codebooks_get_mean_rows():
    codebooks = [rng(1).normal(size=(2, 4))]
    rows = codebook_rows(table(), PLAIN, rng(), codebooks=codebooks)
    assert torch.equal(rows[2:], mean_rows(table(), PLAIN, rng())[2:])
    assert not torch.equal(rows[:2], mean_rows(table(), PLAIN, rng())[:2])
    with pytest.raises(DataError, match=r"found \(\)"):
        codebook_rows(table(), PLAIN, rng(), codebooks=[])
