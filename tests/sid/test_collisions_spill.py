"""Spilling against its definition, written slowly: every round asks for all costs again and sorts every item."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import itemic.sid.collisions.spill
from itemic.sid import resolve_unique
from itemic.sid.collisions.spill import spill
from itemic.sid.collisions.unique import _assign
from itemic.sid.quality import collisions
from itemic.sid.quantizers.rqkmeans import RQKMeans

seeds = st.integers(0, 2**32)
kinds = st.sampled_from(["any", "few values", "all alike", "alike but for noise", "equal"])


def spill_slowly(cost, current, room):
    chosen = current.copy()
    while True:
        space = room - np.bincount(chosen, minlength=len(room))
        if (space >= 0).all():
            return chosen
        rows = np.flatnonzero(space[chosen] < 0)
        reachable = np.where(space > 0, cost[rows], np.inf)
        target = reachable.argmin(axis=1)
        loss = reachable.min(axis=1) - cost[rows, chosen[rows]]
        num_leave, num_enter = np.maximum(-space, 0), np.maximum(space, 0)
        for place in np.argsort(loss, kind="stable"):
            own, wanted = chosen[rows[place]], target[place]
            if num_leave[own] > 0:
                num_leave[own] -= 1
                if num_enter[wanted] > 0:
                    num_enter[wanted] -= 1
                    chosen[rows[place]] = wanted


def make_costs(kind, num_items, num_codes, rng):
    cost = rng.random((num_items, num_codes)).astype(np.float32)
    if kind == "few values":
        cost = rng.integers(0, 3, size=cost.shape).astype(np.float32)
    if kind == "all alike":
        cost[:] = cost[:1]
    if kind == "alike but for noise":
        cost = cost[:1] + np.float32(1e-4) * cost
    return np.zeros_like(cost) if kind == "equal" else cost


@pytest.mark.parametrize(("kept", "fewest", "few"), [(1 << 24, 8, 16), (1, 1, 16), (1, 3, 0), (1 << 24, 8, 0)])
def test_every_item_goes_where_the_definition_puts_it(monkeypatch, kept, fewest, few):
    monkeypatch.setattr(itemic.sid.collisions.spill, "_CELLS_KEPT", kept)
    monkeypatch.setattr(itemic.sid.collisions.spill, "_FEWEST_WISHES", fewest)
    monkeypatch.setattr(itemic.sid.collisions.spill, "_FEW_GROUPS", few)
    monkeypatch.setattr(itemic.sid.collisions.spill, "_CELLS_AT_ONCE", 50)

    @settings(max_examples=40)
    @given(seeds, kinds, st.integers(1, 12), st.integers(1, 60), st.booleans())
    def check(seed, kind, num_codes, num_items, is_nearest):
        rng = np.random.default_rng(seed)
        cost = make_costs(kind, num_items, num_codes, rng)
        current = cost.argmin(axis=1) if is_nearest else rng.integers(0, max(1, num_codes // 3), size=num_items)
        room = rng.multinomial(num_items + int(rng.integers(0, 10)), np.full(num_codes, 1 / num_codes))
        chosen = spill(lambda rows: cost[rows], current, room)
        assert (np.bincount(chosen, minlength=num_codes) <= room).all()
        np.testing.assert_array_equal(chosen, spill_slowly(cost, current, room))

    check()


def test_costs_of_an_item_are_asked_for_once():
    asked = []

    def costs(rows):
        asked.extend(rows.tolist())
        return np.tile(np.arange(20, dtype=np.float32), (len(rows), 1))

    chosen = spill(costs, np.r_[np.zeros(300, dtype=np.int64), 19], np.full(20, 16))
    assert np.bincount(chosen).tolist() == [16] * 18 + [12, 1]
    assert asked == list(range(300)), "the item on a code with room is not asked at all"


@settings(max_examples=60)
@given(seeds, kinds, st.integers(1, 9), st.integers(0, 3))
def test_last_codes_are_dealt_with_the_least_sum(seed, kind, num_rows, num_more):
    distance = make_costs(kind, num_rows, num_rows + num_more, np.random.default_rng(seed))
    column = _assign(distance)
    assert len(set(column.tolist())) == num_rows
    least = distance[linear_sum_assignment(distance)].sum()
    np.testing.assert_allclose(distance[np.arange(num_rows), column].sum(), least, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_three_thousand_items_that_are_alike(noise):
    rng = np.random.default_rng(0)
    quantizer = RQKMeans((16, 16, 16))
    quantizer._codebooks = tuple(rng.normal(size=(3, 16, 8)).astype(np.float32))
    x = (np.ones((3000, 8)) + noise * rng.normal(size=(3000, 8))).astype(np.float32)
    unique = resolve_unique(quantizer.encode(x), x, quantizer)
    assert collisions(unique)["max_items"] == 1
    assert len(np.unique(unique[:, 0])) == 12, "no more first codes than needed: 3000 / 256"
    assert len(np.unique(unique[:, :2], axis=0)) == 188, "nor first two: 11 x 16 + 184 / 16"
