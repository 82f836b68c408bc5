import polars as pl
import pytest

from itemic.core.errors import DataError
from itemic.data.rejects import REJECT_SCHEMA, SourceRows, check_reject_share, no_rejects


def source_rows(values):
    table = pl.DataFrame(
        {"value": values, "source_row": range(2, 2 + len(values))}, schema_overrides={"value": pl.String}
    )
    return SourceRows(file="log.csv", rows=table, rejects=no_rejects())


RULES = [(pl.col("value").is_null(), "missing value"), (pl.col("value").str.contains("x"), "has an x")]


def test_bad_rows_go_aside_with_row_reason_and_content():
    checked = source_rows(["a", None, "x", "b"]).set_aside(RULES)
    assert checked.rows.rows() == [("a", 2), ("b", 5)]
    assert checked.rejects.rows() == [
        ("log.csv", 3, "missing value", '{"value":null}'),
        ("log.csv", 4, "has an x", '{"value":"x"}'),
    ]
    assert dict(checked.rejects.schema) == REJECT_SCHEMA
    assert checked.num_read == 4


def test_a_row_has_one_reason_the_first_that_holds():
    rules = [(pl.col("value") == "x", "first"), (pl.col("value") == "x", "second")]
    assert source_rows(["x"]).set_aside(rules).rejects["reason"].to_list() == ["first"]


def test_a_share_at_the_limit_passes():
    checked = source_rows([None, "a", "a", "a"]).set_aside(RULES)
    check_reject_share(checked.rejects, {"log.csv": 4}, 1 / 4)


def test_too_many_bad_rows_stop_with_counts_and_first_rows():
    checked = source_rows([None, "x", None, "a"]).set_aside(RULES)
    with pytest.raises(DataError) as error:
        check_reject_share(checked.rejects, {"log.csv": 4, "items.csv": 9}, 0.01)
    message = str(error.value)
    assert "log.csv: 3 of 4 rows cannot be used (75.0%, allowed are 1.0%): 2 missing value, 1 has an x" in message
    assert 'row 2: missing value: {"value":null}' in message
    assert "max_reject_share" in message
