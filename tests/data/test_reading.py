import gzip
import json

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from itemic.core.errors import DataError
from itemic.data import reading
from itemic.data.reading import joined_text, parse_delimited, read_json_lines, read_table


def rows(source):
    return source.rows.rows()


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = tmp_path / name
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write_file


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.tsv", "log.jsonl", "log.jsonl.gz", "log.parquet"])
def test_every_ending_gives_the_same_rows(write, tmp_path, name):
    table = pl.DataFrame({"user": ["u", "v"], "item": ["a, b", "c"]})
    if name.endswith("parquet"):
        table.write_parquet(tmp_path / name)
    elif "jsonl" in name:
        write(name, table.write_ndjson())
    else:
        write(name, table.write_csv(separator="\t" if "tsv" in name else ","))
    first = 2 if ".csv" in name or ".tsv" in name else 1
    assert rows(read_table(tmp_path / name)) == [("u", "a, b", first), ("v", "c", first + 1)]


def test_an_unknown_ending_a_missing_and_an_empty_file_are_named(write, tmp_path):
    with pytest.raises(DataError, match=r"log\.xlsx: expected a file ending in"):
        read_table(write("log.xlsx", "x"))
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv")
    for name in ("empty.csv", "empty.jsonl"):
        with pytest.raises(DataError, match="is empty"):
            read_table(write(name, ""))
    cut = write("cut.csv.gz", "a,b\n" * 1000)
    cut.write_bytes(cut.read_bytes()[:-12])
    with pytest.raises(DataError, match="not a complete gzip file"):
        read_table(cut)
    with pytest.raises(DataError, match="not a Parquet file"):
        read_table(write("log.parquet", "a,b\n"))


def test_quotes_line_breaks_blank_lines_and_empty_cells():
    source = parse_delimited(b'a,b\r\n1,"x\r\ny"\r\n\r\n2,\r\n3\r\n', "t.csv", separator=",")
    assert source.rows.select("a", "b").rows() == [("1", "x\r\ny"), ("2", None), ("3", None)]


def test_rows_with_too_many_cells_are_set_aside_not_cut():
    source = parse_delimited(b"a,b\n1,x\n2,y,z\n3\n", "t.csv", separator=",")
    assert rows(source) == [("1", "x", 2), ("3", None, 4)]
    assert source.rejects.rows() == [("t.csv", 3, "3 cells for 2 columns", "2,y,z")]


def test_rows_in_another_encoding_are_set_aside_and_a_real_replacement_character_stays():
    data = "a,b\n1,café\n2,\ufffd\n".encode() + "3,café\n".encode("latin-1")
    source = parse_delimited(data, "t.csv", separator=",")
    assert rows(source) == [("1", "café", 2), ("2", "\ufffd", 3)]
    assert source.rejects.rows() == [("t.csv", 4, "not valid UTF-8", '{"a":"3","b":"caf\ufffd"}')]
    latin = parse_delimited("a,b\n1,café\n".encode("latin-1"), "t.csv", separator=",", encoding="latin-1")
    assert rows(latin) == [("1", "café", 2)]
    with pytest.raises(DataError, match="unknown encoding 'latin-17'"):
        parse_delimited(b"a\n1\n", "t.csv", separator=",", encoding="latin-17")


def test_a_separator_of_several_characters_and_titles_with_odd_line_breaks():
    data = "1::One\u2028Two::Drama\n2::Three: Four::\n".encode()
    source = parse_delimited(data, "movies.dat", separator="::", header=("id", "title", "genres"))
    assert rows(source) == [("1", "One\u2028Two", "Drama", 1), ("2", "Three: Four", None, 2)]


def test_a_column_named_twice_is_refused():
    with pytest.raises(DataError, match="names column 'a' twice"):
        parse_delimited(b"a,a\n1,2\n", "t.csv", separator=",")


def test_json_lines_keep_lists_as_text_and_parse_the_same_in_pieces(write, monkeypatch):
    lines = [{"id": i, "title": f"t{i}", "tags": ["x", "y"] if i % 2 else None} for i in range(50)]
    path = write("items.jsonl", "\n".join(map(json.dumps, lines)))
    whole = read_table(path)
    assert whole.rows.row(1) == ("1", "t1", '["x", "y"]', 2)
    monkeypatch.setattr(reading, "_PIECE_BYTES", 70)
    assert read_table(path).rows.equals(whole.rows)
    windows = write("windows.jsonl", "\r\n".join(map(json.dumps, lines)))
    assert read_table(windows).rows.equals(whole.rows)


def test_broken_json_lines_are_set_aside_and_python_dictionaries_are_read(write):
    path = write("meta.json", "{'id': 'a', 'title': 'It\\'s', 'tags': [['x']]}\n{\"id\": \n\n[1]\n{\"id\": \"b\"}\n")
    source = read_json_lines(path, columns=("id", "title", "tags"))
    assert rows(source) == [("a", "It's", '[["x"]]', 1), ("b", None, None, 5)]
    assert source.rejects.select("row", "reason").rows() == [(2, "not a JSON object"), (4, "not a JSON object")]


def test_undecodable_json_lines_are_set_aside(write):
    path = write("items.jsonl", b'{"id": "a", "t": "caf\xe9"}\n{"id": "b", "t": "ok"}\n')
    source = read_table(path)
    assert rows(source) == [("b", "ok", 2)]
    assert source.rejects.select("row", "reason").rows() == [(1, "not valid UTF-8")]


LOG = ["u,i,t", *(f"u{row},i{row},{row}" for row in range(2, 3001))]


@pytest.mark.parametrize("rest", [[], ['u,"x,7']])  # polars reads the first and refuses the second
def test_an_opening_quote_that_swallows_rows_is_named(rest):
    lines = [*LOG[:1999], '"' + LOG[1999], *LOG[2000:], *rest]
    with pytest.raises(DataError, match=r"t\.csv: row 2000: a quoted cell goes over 1000 lines that look like rows"):
        parse_delimited(("\n".join(lines) + "\n").encode(), "t.csv", separator=",")


def test_quotes_of_titles_are_no_quoting_when_said_so(write):
    path = write("items.tsv", 'id\ttitle\n1\t"Weird Al" Yankovic\n2\tB\n3\t"Heroes"\n'.replace('Al"', "Al"))
    with pytest.raises(DataError, match=r"row 2: .* 2 lines .* set quoted: false"):
        read_table(path)
    assert read_table(path, quoted=False).rows["title"].to_list() == ['"Weird Al Yankovic', "B", '"Heroes"']


def test_texts_of_several_lines_are_no_open_quotes():
    text = "Soft, warm, and cheap.\n\n- wool, cotton\n1,2,3\nIt lasts"
    source = parse_delimited(f'id,title,text\n1,T,"{text}"\n2,"U\nV",x\n'.encode(), "t.csv", separator=",")
    assert source.rows["text"].to_list() == [text, "x"]
    one = parse_delimited(b'text\n"a\nb"\n', "t.csv", separator=",")
    assert one.rows["text"].to_list() == ["a\nb"]


def test_what_the_csv_module_refuses_is_named_with_file_and_line():
    wide = 'a,b\n1,2,3\n4,"' + "x\n" * 100_000
    with pytest.raises(DataError, match=r"t\.csv: line \d+: field larger than field limit .* without an end\?"):
        parse_delimited(wide.encode(), "t.csv", separator=",")
    with pytest.raises(DataError, match=r"t\.csv: line 1: the lines end with a carriage return alone"):
        parse_delimited(b"a,b\r1,2\r", "t.csv", separator=",")


def test_a_byte_order_mark_is_no_part_of_the_first_name(write):
    for name, text in (
        ("a.csv", "id,t\n1,x\n"),
        ("ragged.csv", "id,t\n1,x\n2,y,z\n"),
        ("a.jsonl", '{"id": 1, "t": "x"}'),
    ):
        table = read_table(write(name, "\ufeff" + text)).rows
        assert table.select("id", "t").rows() == [("1", "x")]


NUMBERS = st.integers(-(10**15), 10**15)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | NUMBERS.map(lambda n: n / 1000)
    | NUMBERS.map(float)
    | st.text("aé ", max_size=3),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inside, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(JSON_VALUES)
@example(12.0)
@example([1.0, {"k": -0.0}])
@example(1e-7)
def test_json_values_are_written_alike_by_the_fast_and_the_slow_road(value):
    line = json.dumps({"v": value}).encode() + b"\n"
    fast = reading._parse_json_chunk(line, "t.jsonl", ["v"], 1)
    slow = reading._parse_json_chunk(b"\n" + line, "t.jsonl", ["v"], 0)
    assert fast.rows.equals(slow.rows)


def test_json_lines_in_utf_16_are_refused(write):
    path = write("a.jsonl", '{"id": 1}'.encode("utf-16"))
    with pytest.raises(DataError, match=r"a\.jsonl: JSON lines are not read in utf-16; write the file in UTF-8"):
        read_table(path, encoding="utf-16")


def test_a_mapped_key_is_found_however_late_it_first_appears(write):
    path = write("items.jsonl", '{"id": "a"}\n' * 1500 + '{"id": "b", "text": "late", "more": 1}\n')
    table = read_table(path, mapped=("id", "text", "none", "")).rows
    assert table.columns == ["id", "text", "source_row"]
    assert table.row(1500) == ("b", "late", 1501)


def test_written_lists_are_joined_and_nothing_is_evaluated():
    texts = ['["a", "b"]', "['it''s', \"b\"]", "[['x', ''], ['y']]", "[REC]", "[1, 2", "plain", None, "[]"]
    expected = ["a b", "its b", "x y", "[REC]", "[1, 2", "plain", None, ""]
    assert joined_text(pl.Series(texts), " ").to_list() == expected
    call = "[__import__('os').abort()]"
    assert joined_text(pl.Series([call]), " ").to_list() == [call]
