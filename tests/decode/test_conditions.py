from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.core.errors import CatalogError, ConfigError, DataError
from itemic.decode.conditions import ItemSelector, condition_key, item_mask
from itemic.decode.recommender import LanguageModelRecommender
from itemic.decode.trie import Trie

NOW = datetime(2024, 1, 10)

ITEMS = pl.DataFrame(
    {
        "item_id": list("abcd"),
        # As itemic prepare writes columns: text, lists joined by commas.
        "category": ["Books", "Board games", "Toys", None],
        "stock": ["0", "12", " 3 ", None],
        "code": ["9007199254740993", "9007199254740992", "12345678901234567891", "007"],
        "price": ["10.50", "20", "about 5", "3"],
        "released": ["2024-01-01", "2023-12-31 23:59:59.000000", "2024-05-01T10:00:00+02:00", None],
        "genres": ["Sci-Fi, Drama", "Drama", "Comedy", None],
        # Columns with types.
        "count": [1, 2, 3, None],
        "weight": [1.5, float("nan"), None, 7.0],
        "is_new": [True, False, None, True],
        "day": [date(2024, 1, 1), date(2024, 2, 1), None, date(2025, 1, 1)],
        "moment": [datetime(2024, 1, 1, 5), datetime(2024, 1, 2), None, datetime(2025, 1, 1)],
        "second": [1704067200, 1704153600, None, 1735689600],
        "millisecond": [1704067200000, None, None, None],
        "brand": ["Acme", "", "  ", None],
        "tags": [["x", "it's"], ["y"], [], None],
        "numbers": [[1, 2], [3], [], None],
        "small": pl.Series([1, 2, 3, 255], dtype=pl.UInt8),
        "kind": pl.Series(["p", "q", "p", None], dtype=pl.Categorical),
        "two words": ["1", "2", "3", "4"],
        "large": [1234567890123456789, 1234567890123456788, 1, None],
    }
).with_columns(tokyo=pl.col("moment").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"))


def holds(condition: str | pl.Expr) -> str:
    return "".join(ITEMS["item_id"].filter(pl.Series(item_mask(ITEMS, condition, NOW))))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("category = Books", "a"),
        ("category == 'Board games'", "b"),
        ("category <> Books", "bc"),
        ("not category = Books", "bc"),
        ("category != Books or category is null", "bcd"),
        ("category IS NOT NULL", "abc"),
        ("category in (Books, Toys)", "ac"),
        ("category not in (Books)", "bc"),
        ("stock > 0", "bc"),
        ("stock>=3 and(category=Toys)", "c"),
        ("count = 1 or count = 2 and stock = 12", "ab"),
        ("(count = 1 or count = 2) and stock = 12", "b"),
        ("not (count = 1 or not (count < 3))", "b"),
        ("released >= 2024-01-01", "ac"),
        ("released < 2024-05-01T08:00:01", "abc"),
        ("released < 2024-05-01T10:00:00+02:00", "ab"),
        ("released within 10 days", "ab"),
        ("released within 9.5 days", "ab"),
        ("released within 9 days", "a"),
        ("genres contains Drama", "ab"),
        ("genres contains sci", "a"),
        ("category contains BO", "ab"),
        ("genres contains 'fi, d'", "a"),
        ("genres contains .", ""),
        ("brand is null", "bcd"),
        ("brand is not null", "a"),
        ("brand != Other", "a"),
        ("brand not in (Other)", "a"),
        ("brand not contains x", "a"),
        ("price > 5", "ab"),
        ("not price > 15", "ad"),
        ("price > 5 or price is null", "ab"),
        ("genres not contains Drama", "c"),
        ("count > 1.5", "bc"),
        ("count in (1, 3)", "ac"),
        ("weight > 1", "ad"),
        ("weight is null", "bc"),
        ("weight is not null", "ad"),
        ("is_new = TRUE", "ad"),
        ("day >= 2024-02-01", "bd"),
        ("moment = 2024-01-01", "a"),
        ("moment > 2024-01-01", "bd"),
        ("moment > 2024-01-01T04:59", "abd"),
        ("tokyo = 2024-01-01", "a"),
        ("tokyo within 8 days", "b"),
        ("tokyo within 2 weeks", "ab"),
        ("second >= 2024-01-02", "bd"),
        ("second > 1704067200", "bd"),
        ("second within 204 hours", "b"),
        ("tags contains Y", "b"),
        ("tags not contains y", "ac"),
        ("tags contains 'it''s'", "a"),
        ("numbers contains 3", "b"),
        ("small > -1", "abcd"),
        ("small > 300", ""),
        ("large = 1234567890123456789", "a"),
        ("kind = p", "ac"),
        ("kind in (q)", "b"),
        ("`two words` > 2", "cd"),
        # Text is equal as a number or day beside one without quotes, and by letter otherwise.
        ("stock = 3", "c"),
        ("stock = 3.0", "c"),
        ("stock = '3'", ""),
        ("stock = ' 3 '", "c"),
        ("stock != 3", "ab"),
        ("stock in (3, 12.0)", "bc"),
        ("stock in ('3', 0)", "a"),
        ("stock not in (3, '0')", "b"),
        ("price = 10.5", "a"),
        ("price != 20", "acd"),
        ("price = '10.5'", ""),
        ("released = 2023-12-31", "b"),
        ("released = 2024-05-01", "c"),
        ("released = '2023-12-31'", ""),
        ("released = 2024-05-01T08:00", "c"),
        ("released in (2024-01-01, 2023-12-31)", "ab"),
        ("released != 2023-12-31", "ac"),
        ("category = 3", ""),
        ("category in (3, Books)", "a"),
        ("code = 9007199254740993", "a"),
        ("code = 9007199254740992", "b"),
        ("code = 12345678901234567891", "c"),
        ("code in (9007199254740992, 12345678901234567890)", "b"),
        ("code = 7", "d"),
        ("code = '7'", ""),
        (pl.col("count").is_between(2, 3), "bc"),
        (pl.col("tags").list.len() == 0, "c"),
    ],
    ids=str,
)
def test_conditions_by_hand(condition: str | pl.Expr, expected: str) -> None:
    assert holds(condition) == expected


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        ("catgory = Books", ConfigError, "no column 'catgory'; did you mean 'category'\\? It has item_id, category"),
        (pl.col("catgory") == "x", ConfigError, "no column 'catgory'; did you mean 'category'"),
        ("Stock > 0", ConfigError, "did you mean 'stock'"),
        ("zzz > 0", ConfigError, "no column 'zzz'; it has item_id, category"),
        ("category = ' '", ConfigError, "blank text counts as missing: write category is null"),
        ("category in (Books, '')", ConfigError, "write category is null"),
        ("category contains ''", ConfigError, "write category is null"),
        ("count > many", ConfigError, "'count > many': column 'count' is Int64: expected a number, found 'many'"),
        ("category > M", ConfigError, "column 'category' is text: > needs a number or a date"),
        ("tags = y", ConfigError, "'tags' is List\\(String\\): it has no =; write tags contains y"),
        ("numbers contains y", ConfigError, "'numbers' holds lists of Int64, found 'y'"),
        ("count contains 1", ConfigError, "'count' is Int64: contains needs text or lists"),
        ("is_new = yes", ConfigError, "'is_new' is true or false, found 'yes'"),
        ("day > 5", ConfigError, "'day' is Date: expected a date such as 2024-05-01"),
        ("day > 2024-13-01", ConfigError, "found '2024-13-01'"),
        ("weight within 3 days", ConfigError, "'weight' is Float64: it has no moments"),
        ("day within 999999 weeks", ConfigError, "within 999999 weeks.*column 'day': 6,999,993 days before 2024-01-10"),
        ("released = 2024-13-01", ConfigError, "found '2024-13-01'"),
        ("day within 3 moons", ConfigError, "a number of minutes, hours, days or weeks, found 3 moons"),
        (
            "category > 5",
            DataError,
            "'category > 5': column 'category' \\(text\\): expected a number, found 'Books' at",
        ),
        ("category >= 2024-01-01", DataError, "expected an ISO 8601 date .* found 'Books' at item 'a'"),
        ("count within 3 days", DataError, "found 1 at item 'a'"),
        ("millisecond > 2024-01-01", DataError, "found 1704067200000 at item 'a'"),
        ("category = Board games", ConfigError, "several words stands in quotes\\), found 'games' after 'Board'"),
        ("category", ConfigError, "expected =, .* after category, found 'the end'"),
        ("  ", ConfigError, "expected a column, found 'the end' after 'the beginning'"),
        ("count >", ConfigError, "expected a value, found 'the end' after '>'"),
        ("count in ()", ConfigError, "expected a value, found '\\)'"),
        ("(count > 1", ConfigError, "expected \\), found 'the end'"),
        ("count > 1)", ConfigError, "found '\\)' after '1'"),
        ("category = 'open", ConfigError, "is a quote left open"),
        ("not " * 60 + "count = 1", ConfigError, "nested more than 50 deep"),
        ("count = 1 and " * 300 + "count = 1", ConfigError, "more than 1000 words and signs"),
        (pl.col("day") > "x", ConfigError, "cannot be computed \\(day is Date\\)"),
        (pl.col("count"), ConfigError, "4 values of type Int64; expected true or false for each of 4 items"),
        (pl.col("count").max() > 1, ConfigError, "gives 1 values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_conditions_are_named(condition: str | pl.Expr, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        item_mask(ITEMS, condition, NOW)


@pytest.mark.parametrize(
    ("cells", "is_error"), [(["1", "2", "x", None, ""], False), (["1", "x"], False), (["1", "x", "y"], True)], ids=str
)
def test_cells_that_cannot_be_read_count_as_missing_with_one_warning_while_most_can(
    cells: list[str | None], is_error: bool, caplog: pytest.LogCaptureFixture
) -> None:
    items = pl.DataFrame({"item_id": [f"i{place}" for place in range(len(cells))], "year": cells})
    condition = "year >= 1 and year < 3 and year in (1, 2)"
    if is_error:
        with pytest.raises(DataError, match=r"'year >= 1 and.*expected a number, found 'x' at item 'i1'; 2 of 3 cells"):
            item_mask(items, condition, NOW)
        return
    assert item_mask(items, condition, NOW).tolist() == [cell in ("1", "2") for cell in cells]
    message = rf"condition '{condition}': column 'year' (text): 1 of {cells.index('x') + 1} cells count as missing; "
    expected = f"expected a number, first found 'x' at item 'i{cells.index('x')}'"
    assert [record.getMessage() for record in caplog.records] == [message + expected]


def test_conditions_that_hold_for_no_item_warn(caplog: pytest.LogCaptureFixture) -> None:
    trie = Trie.from_codes(np.array([[0], [1], [2], [3]]), (4,))
    selector = ItemSelector(ITEMS, trie)
    conditions = ["stock > 99", "count = 1", "stock > 0", pl.col("count") > 99]
    for _ in range(2):
        found = selector.at(NOW.replace(tzinfo=UTC)).select(conditions)
        assert found is not None
        assert found.num_items == 0
    first, *others = [record.getMessage() for record in caplog.records]
    assert (first, len(others)) == ("condition 'stock > 99' holds for no item", 1), "once, though it is kept elsewhere"
    caplog.clear()
    item_mask(ITEMS, ["count = 1", "stock > 0", "count = 3"], NOW)
    assert [record.getMessage() for record in caplog.records] == [
        "condition 'stock > 0' holds for no item for which those before it hold"
    ]


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> tuple[str, Callable[[dict[str, int | None]], bool | None]]:
    """Draws a condition and what it means for a row, in logic with a third value for what is missing."""
    kind = draw(st.sampled_from(["test", "test", "null", "not", "and", "or"] if depth else ["test", "null"]))
    column = draw(st.sampled_from("xy"))
    if kind == "test":
        bound, sign = draw(st.integers(0, 3)), draw(st.sampled_from(["<", "<=", "=", "!=", ">", ">="]))
        tests = {
            "<": int.__lt__,
            "<=": int.__le__,
            "=": int.__eq__,
            "!=": int.__ne__,
            ">": int.__gt__,
            ">=": int.__ge__,
        }
        return f"{column} {sign} {bound}", lambda row: None if row[column] is None else tests[sign](row[column], bound)
    if kind == "null":
        return f"{column} is null", lambda row: row[column] is None
    text, meaning = draw(conditions(depth - 1))
    if kind == "not":
        return f"not ({text})", lambda row: None if meaning(row) is None else not meaning(row)
    other_text, other = draw(conditions(depth - 1))
    decides = kind == "or"

    def both(row: dict[str, int | None]) -> bool | None:
        found = (meaning(row), other(row))
        if decides in found:
            return decides
        return None if None in found else not decides

    return f"({text}) {kind} ({other_text})", both


@settings(max_examples=80)
@given(conditions(), st.lists(st.tuples(*[st.none() | st.integers(0, 3)] * 2), min_size=1, max_size=8), st.booleans())
def test_nested_conditions_mean_what_they_say(
    drawn: tuple[str, Callable[[dict[str, int | None]], bool | None]], rows: list[tuple[int | None]], as_text: bool
) -> None:
    text, meaning = drawn
    items = pl.DataFrame(rows, schema={"x": pl.Int64, "y": pl.Int64}, orient="row")
    items = items.with_columns(item_id=pl.lit("i"))
    expected = [meaning(row) is True for row in items.iter_rows(named=True)]
    if as_text:
        items = items.cast(pl.String)
    assert item_mask(items, text, NOW).tolist() == expected


def test_sets_are_kept_under_their_text_and_recent_ones_for_a_minute() -> None:
    trie = Trie.from_codes(np.array([[0], [1], [2], [3]]), (4,))
    now = datetime(2024, 1, 10, 12, 0, 5, tzinfo=UTC)
    times = [now + timedelta(seconds=seconds) for seconds in (0, 20, 90, 90, 95, 100)]
    selector = ItemSelector(ITEMS, trie, clock=iter(times).__next__)
    first = selector.select("moment within 10 days")
    assert selector.select("moment within 10 days") is first
    assert selector.select("moment within 10 days") is not first, "a minute later it is another set"
    stock = selector.select(["stock > 0", pl.col("count") > 2])
    assert stock is not None
    assert stock.num_items == 1
    assert selector.select(["stock > 0", pl.col("count") > 2]) is stock
    assert selector.select(["stock > 0", pl.col("count") > 1]) is not stock
    assert selector.select([]) is None
    with pytest.raises(CatalogError, match="a table of 3 items for a catalog of 4"):
        ItemSelector(ITEMS.head(3), trie)


def test_no_two_conditions_share_a_key_and_a_selectors_clock_can_stand_still() -> None:
    """Polars leaves out the middle of a long list when it writes an expression."""
    long, other = (pl.col("item_id").is_in(["a", "b", *middle, "z"]) for middle in (map(str, range(50)), "0" * 50))
    assert condition_key(long) != condition_key(other)
    assert condition_key(long) == condition_key(pl.col("item_id").is_in(["a", "b", *map(str, range(50)), "z"]))
    assert condition_key("stock > 0") == "stock > 0"
    trie = Trie.from_codes(np.array([[0], [1], [2], [3]]), (4,))
    found = ItemSelector(ITEMS, trie).at(NOW.replace(tzinfo=UTC)).select("moment within 8 days")
    assert found is not None
    assert found.num_items == 1


@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        ("category = books", "; no item has 'books' in the column 'category'; did you mean 'Books'?"),
        (
            "category in (Boks, Gadgets) or kind = z",
            "; no item has 'Boks' in the column 'category'; did you mean 'Books'?"
            "; no item has 'Gadgets' in the column 'category'; there is 'Board games', 'Books', 'Toys'"
            "; no item has 'z' in the column 'kind'; there is 'p', 'q'",
        ),
        ("stock = 13", "; no item has '13' in the column 'stock'; did you mean '3'?"),
        ("stock = 3.0 and stock = 0", ""),
        ("count = 9", ""),
        ("category = Books or category = Boks", None),
    ],
)
def test_values_that_no_item_has_are_named_where_a_condition_holds_for_none(
    condition: str, hint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    item_mask(ITEMS, condition, NOW)
    expected = [] if hint is None else [f"condition {condition!r} holds for no item{hint}"]
    assert [record.getMessage() for record in caplog.records] == expected


def test_a_recommender_lists_only_items_that_fulfil_each_requests_conditions(make_catalog, fake_policy) -> None:
    """24 items under 24 beams, so the list with a filter is the whole ranking without the others."""
    rng = np.random.default_rng(1)
    codes = np.stack(np.unravel_index(rng.permutation(48)[:24], (4, 12)), axis=1)
    catalog = make_catalog(codes, (4, 12))
    model = fake_policy((4, 12), catalog_version=catalog.version)
    items = pl.DataFrame({"item_id": catalog.item_ids, "stock": rng.integers(0, 3, 24), "price": rng.random(24)})
    recommender = LanguageModelRecommender(model, catalog, lambda past: [20, *past], num_beams=24, items=items)
    stock, price = items["stock"].to_numpy(), items["price"].to_numpy()
    where = ["stock > 0", None, ["price < 0.5", pl.col("stock") == 2], "stock > 5", "price >= 0 or stock is null"]
    masks = [stock > 0, stock >= 0, (price < 0.5) & (stock == 2), stock > 5, stock >= 0]
    histories = [[3], [1], [], [2], [0, 1]]
    everything = recommender.recommend(histories, 24)
    assert everything.num_allowed is not None
    assert everything.num_allowed.tolist() == everything.num_listed.tolist() == [24] * 5
    exclude = [[0, 1], [], [2], [3], list(range(23))]
    lists = recommender.recommend(histories, 10, exclude=exclude, where=where)
    assert lists.num_allowed is not None
    for row, mask in enumerate(masks):
        allowed = set(np.flatnonzero(mask)) - set(exclude[row])
        places = [place for place, item in enumerate(everything.item_index[row]) if item in allowed][:10]
        assert lists.item_index[row, : len(places)].tolist() == everything.item_index[row, places].tolist()
        assert lists.score[row, : len(places)].tolist() == pytest.approx(everything.score[row, places].tolist())
        assert lists.num_allowed[row] == len(allowed)
        assert lists.num_listed[row] == len(places) == min(10, len(allowed))
    with pytest.raises(ConfigError, match="did you mean 'stock'"):
        recommender.recommend([[0]], 1, where=["stck > 0"])
    with pytest.raises(DataError, match="where is the one text"):
        recommender.recommend([[0]], 1, where="stock > 0")
    with pytest.raises(DataError, match="where has 1 conditions for 2 histories"):
        recommender.recommend([[0], [1]], 1, where=["stock > 0"])
    bare = LanguageModelRecommender(model, catalog, lambda past: [20, *past])
    with pytest.raises(ConfigError, match="made without the catalogue's columns"):
        bare.recommend([[0]], 1, where=["stock > 0"])


@settings(max_examples=25)
@given(data=st.data())
def test_few_beams_never_list_what_is_not_allowed_and_always_fill_the_list(data, make_catalog, fake_policy) -> None:
    """Random trees, shared semantic IDs, lists and conditions at once; beams far fewer than items."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    num_items = data.draw(st.integers(1, 40))
    shares = data.draw(st.booleans())
    flat = rng.integers(0, 36, num_items) if shares else rng.permutation(64)[:num_items]
    codes = np.stack(np.unravel_index(flat, (4, 4, 4)), axis=1)
    catalog = make_catalog(codes, (4, 4, 4), shares=shares)
    model = fake_policy((4, 4, 4), catalog_version=catalog.version)
    items = pl.DataFrame({"item_id": catalog.item_ids, "stock": rng.integers(0, 3, num_items)})
    recommender = LanguageModelRecommender(model, catalog, lambda past: [20, past[-1] % 20], num_beams=2, items=items)
    some = st.lists(st.integers(0, num_items - 1), max_size=num_items)
    lists = st.none() | st.lists(some, min_size=2, max_size=2)
    exclude, allow = data.draw(lists), data.draw(lists)
    where = data.draw(
        st.none() | st.lists(st.none() | st.sampled_from(["stock > 0", "stock = 9"]), min_size=2, max_size=2)
    )
    k = data.draw(st.integers(1, 6))
    found = recommender.recommend([[0], [0, num_items - 1]], k, exclude=exclude, allow=allow, where=where)
    assert found.num_allowed is not None
    for row in range(2):
        allowed = set(range(num_items) if allow is None else allow[row]) - set(exclude[row] if exclude else ())
        if where and where[row]:
            allowed &= set(np.flatnonzero(items["stock"].to_numpy() > 0)) if where[row] == "stock > 0" else set()
        listed = found.item_index[row, : found.num_listed[row]].tolist()
        assert set(listed) <= allowed
        assert len(set(listed)) == len(listed) == min(k, len(allowed))
        assert found.num_allowed[row] == len(allowed)
