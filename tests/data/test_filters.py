from collections import Counter

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from itemic.data.filters import clean_titles, drop_duplicates, drop_repeats, in_time_window, k_core, title_rule

LOGS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40)


def slow_k_core(pairs, min_user, min_item):
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = [(u, i) for u, i in pairs if users[u] >= min_user and items[i] >= min_item]
        if len(kept) == len(pairs):
            return kept
        pairs = kept


@given(LOGS, st.integers(1, 4), st.integers(0, 4))
def test_k_core_equals_repeated_filtering(pairs, min_user, min_item):
    users, items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    mask = k_core(users, items, min_user, min_item)
    assert [pair for pair, kept in zip(pairs, mask, strict=True) if kept] == slow_k_core(pairs, min_user, min_item)


def test_k_core_by_hand():
    # Item 2 falls first, then user 1 with one interaction left, then nothing.
    users, items = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 2, 0, 1])
    assert k_core(users, items, 2, 2).tolist() == [True, True, False, False, True, True]


def log(rows):
    schema = {"user": pl.Int64, "item": pl.Int64, "time_us": pl.Int64, "behaviour": pl.String, "rating": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_one_event_recorded_twice_is_kept_once_but_rows_without_time_are_no_duplicates():
    rows = [(0, 1, 5, None, 3.0), (0, 1, 5, None, 3.0), (0, 1, 5, None, 4.0), (0, 1, None, None, None)]
    rows.append(rows[-1])
    assert drop_duplicates(log(rows)).rows() == [rows[0], rows[2], rows[3], rows[4]]


def test_only_the_first_of_a_users_repeats_stays():
    rows = [(0, 1, 5, "view", None), (0, 2, 6, "view", None), (0, 1, 7, "buy", None), (1, 1, 8, "view", None)]
    assert drop_repeats(log(rows)).rows() == [rows[0], rows[1], rows[3]]


def test_the_time_window_takes_its_start_and_leaves_its_end():
    table = log([(0, i, i, None, None) for i in range(5)])
    assert table.filter(in_time_window(1, 3))["item"].to_list() == [1, 2]
    assert table.filter(in_time_window(None, 3))["item"].to_list() == [0, 1, 2]
    assert table.filter(in_time_window(3, None))["item"].to_list() == [3, 4]


def test_titles_are_cleaned_of_entities_and_line_breaks():
    titles = pl.Series(["A &amp; B", "12&quot; x", "two\n\tlines ", "plain", None])
    assert clean_titles(titles).to_list() == ["A & B", '12" x', "two lines", "plain", None]


def test_title_rules_count_words_and_forbid_texts():
    items = pl.DataFrame({"title": ["", "one", "one two", "one  two three", 'x <span id="y"> z']})
    kept = items.filter(title_rule(2, 3, ("<span id",)))
    assert kept["title"].to_list() == ["one two", "one  two three"]
    assert items.filter(title_rule(0, 0, ())).height == 5
