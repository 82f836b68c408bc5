"""All rows once an epoch, in random order, from memory and from a mapped file larger than a block."""

import numpy as np
import pytest
import torch

from itemic.sid.quantizers import row_batches
from itemic.sid.quantizers.row_batches import shuffled_batches

WIDTH = 4


def batches(x, batch_size=8, seed=0):
    return list(shuffled_batches(x, batch_size, torch.Generator().manual_seed(seed)))


@pytest.fixture
def vectors():
    return np.arange(250 * WIDTH, dtype=np.float32).reshape(250, WIDTH)


@pytest.fixture
def mapped(tmp_path, vectors):
    np.save(tmp_path / "x.npy", vectors)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 rows, made of runs of 5."""
    monkeypatch.setattr(row_batches, "_BLOCK_BYTES", 64 * WIDTH * 4)
    monkeypatch.setattr(row_batches, "_RUN_BYTES", 5 * WIDTH * 4)


def check_that_every_row_comes_once(found, vectors):
    rows = np.concatenate([batch.rows for batch in found])
    assert sorted(rows.tolist()) == list(range(250))
    assert [len(batch.rows) for batch in found] == [8] * 31 + [2]
    for batch in found:
        np.testing.assert_array_equal(batch.vectors, vectors[batch.rows])


def test_every_row_comes_once_with_its_vector_and_only_the_last_batch_is_short(vectors, mapped):
    check_that_every_row_comes_once(batches(vectors), vectors)
    check_that_every_row_comes_once(batches(mapped), vectors)


def test_so_too_from_blocks(vectors, mapped, small_blocks):
    found = batches(mapped)
    check_that_every_row_comes_once(found, vectors)
    # Of the block's 64 rows, which are runs of 5 neighbours, the first and the last may be cut.
    block = np.sort(np.concatenate([batch.rows for batch in found[:8]]))
    assert len(block) == 64
    assert (np.diff(block) == 1).sum() >= 50
    # They are of all over the file, and so are those of a batch.
    assert block[0] < 60
    assert block[-1] > 190
    assert min(np.ptp(batch.rows) for batch in found[:8]) > 60


def test_the_order_is_the_generator_s_alone(vectors, mapped, small_blocks):
    first, again, other = batches(mapped), batches(mapped), batches(mapped, seed=1)
    for batch, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(batch.rows, same.rows)
    assert any(not np.array_equal(*pair) for pair in zip(first[0].rows, other[0].rows, strict=True))


def test_a_mapped_file_of_one_block_has_the_order_of_memory(vectors, mapped):
    for batch, same in zip(batches(vectors), batches(mapped), strict=True):
        np.testing.assert_array_equal(batch.rows, same.rows)


def test_a_block_holds_a_batch_however_small_it_is(vectors, mapped, monkeypatch):
    monkeypatch.setattr(row_batches, "_BLOCK_BYTES", 1)
    check_that_every_row_comes_once(batches(mapped), vectors)
