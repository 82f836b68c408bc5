"""One small log in every format that has a reader: each must give the same dataset."""

import gzip
import json
import zipfile
from pathlib import Path

import polars as pl
import pytest

from itemic.core.errors import ConfigError, DataError
from itemic.data import (
    AmazonConfig,
    ExampleColumns,
    ExamplesConfig,
    InteractionColumns,
    ItemColumns,
    MinionerecConfig,
    MovielensConfig,
    PrepareConfig,
    RecboleConfig,
    TableConfig,
    prepare_dataset,
    read_source,
)
from itemic.data.sources import movielens
from itemic.data.sources.minionerec import read_index

# user, item, rating, seconds since 1970; the two rows at 30 are a tie of user 1.
LOG = [
    ("1", "10", 5, 20),
    ("2", "30", 1, 25),
    ("1", "30", 4, 10),
    ("1", "20", 3, 30),
    ("1", "40", 3, 30),
    ("2", "10", 2, 9),
]
TITLES = {"10": "Alpha (1990)", "20": "Béta (1991)", "30": "Gamma (1992)", "40": "Delta (1993)"}
GENRES = {"10": ["Action", "Comedy"], "20": ["Drama"], "30": ["Comedy"], "40": ["Drama", "War"]}
SEQUENCES = {"1": ["30", "10", "20", "40"], "2": ["10", "30"]}


def write_lines(path: Path, lines, encoding="utf-8"):
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))


def as_csv(folder):
    write_lines(folder / "log.csv", ["user_id,item_id,rating,timestamp", *(",".join(map(str, row)) for row in LOG)])
    write_lines(folder / "items.csv", ["item_id,title", *(f"{item},{title}" for item, title in TITLES.items())])
    return TableConfig(
        interactions=str(folder / "log.csv"), items=str(folder / "items.csv"), item_columns=ItemColumns(description="")
    )


def as_parquet_and_json_lines(folder):
    times = pl.from_epoch(pl.Series("when", [row[3] for row in LOG]))
    users, items = ([int(row[side]) for row in LOG] for side in (0, 1))
    pl.DataFrame({"who": users, "what": items, "when": times}).write_parquet(folder / "log.parquet")
    write_lines(folder / "items.jsonl", [json.dumps({"id": int(i), "name": t}) for i, t in TITLES.items()])
    return TableConfig(
        interactions=str(folder / "log.parquet"),
        items=str(folder / "items.jsonl"),
        interaction_columns=InteractionColumns(user_id="who", item_id="what", timestamp="when"),
        item_columns=ItemColumns(item_id="id", title="name", description=""),
    )


def as_recbole(folder):
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    write_lines(folder / "tiny.inter", [header, *("\t".join(map(str, row)) for row in LOG)])
    write_lines(folder / "tiny.item", ["item_id:token\ttitle:token_seq", *(f"{i}\t{t}" for i, t in TITLES.items())])
    return RecboleConfig(path=str(folder))


def as_ml_100k(folder):
    write_lines(folder / "u.data", ("\t".join(map(str, row)) for row in LOG))
    flags = {i: "|".join(str(int(g in GENRES[i])) for g in movielens._GENRES_100K) for i in TITLES}
    write_lines(folder / "u.item", (f"{i}|{t}|01-Jan-1990||http://x|{flags[i]}" for i, t in TITLES.items()), "latin-1")
    return MovielensConfig(path=str(folder))


def as_ml_1m(folder):
    write_lines(folder / "ratings.dat", ("::".join(map(str, row)) for row in LOG))
    write_lines(folder / "movies.dat", (f"{i}::{t}::{'|'.join(GENRES[i])}" for i, t in TITLES.items()), "latin-1")
    return MovielensConfig(path=str(folder))


def as_ml_latest(folder):
    write_lines(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in LOG)])
    movies = (f'{i},"{t}",{"|".join(GENRES[i])}' for i, t in TITLES.items())
    write_lines(folder / "movies.csv", ["movieId,title,genres", *movies])
    return MovielensConfig(path=str(folder))


def as_ml_zip(folder):
    as_ml_latest(folder)
    with zipfile.ZipFile(folder / "ml-latest-small.zip", "w") as archive:
        archive.writestr("ml-latest-small/", "")
        for name in ("ratings.csv", "movies.csv"):
            archive.write(folder / name, f"ml-latest-small/{name}")
    return MovielensConfig(path=str(folder / "ml-latest-small.zip"))


def as_ml_wheel(folder):
    as_recbole(folder)
    (folder / "tiny.inter").rename(folder / "ml-100k.inter")
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    movies = (f"{i}\t{t[:-7]}\t{t[-5:-1]}\t{' '.join(GENRES[i])}" for i, t in TITLES.items())
    write_lines(folder / "ml-100k.item", [header, *movies])
    return MovielensConfig()


def as_amazon(folder, review, meta, packed=False):
    ending = ".gz" if packed else ""
    for name, lines in (("reviews.json", map(review, LOG)), ("meta.json", map(meta, TITLES))):
        data = "".join(f"{line}\n" for line in lines).encode()
        (folder / (name + ending)).write_bytes(gzip.compress(data) if packed else data)
    return AmazonConfig(reviews=str(folder / f"reviews.json{ending}"), metadata=str(folder / f"meta.json{ending}"))


def as_amazon_2014(folder):
    def review(row):
        return json.dumps(
            {"reviewerID": row[0], "asin": row[1], "overall": float(row[2]), "unixReviewTime": row[3], "summary": "x"}
        )

    def meta(item):  # Python dictionaries, as published.
        return repr({"asin": item, "title": TITLES[item], "categories": [["Movies", *GENRES[item]]], "price": 1.5})

    return as_amazon(folder, review, meta, packed=True)


def as_amazon_2018(folder):
    def review(row):
        return json.dumps(
            {"overall": row[2], "verified": True, "reviewerID": row[0], "asin": row[1], "unixReviewTime": row[3]}
        )

    def meta(item):
        return json.dumps(
            {"category": ["Movies"], "description": ["a", "b"], "title": TITLES[item], "brand": "B", "asin": item}
        )

    return as_amazon(folder, review, meta)


def as_amazon_2023(folder):
    def review(row):
        return json.dumps(
            {"rating": row[2], "asin": "variant", "parent_asin": row[1], "user_id": row[0], "timestamp": row[3] * 1000}
        )

    def meta(item):
        return json.dumps(
            {"title": TITLES[item], "description": ["a", "b"], "store": "S", "parent_asin": item, "features": []}
        )

    return as_amazon(folder, review, meta, packed=True)


FORMATS = [
    as_csv,
    as_parquet_and_json_lines,
    as_recbole,
    as_ml_100k,
    as_ml_1m,
    as_ml_latest,
    as_ml_zip,
    as_ml_wheel,
    as_amazon_2014,
    as_amazon_2018,
    as_amazon_2023,
]


@pytest.fixture
def make_source(tmp_path, monkeypatch):
    monkeypatch.setattr(movielens, "packaged_asset", lambda asset: tmp_path)
    return lambda write: write(tmp_path)


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_dataset(make_source, write):
    dataset, rejects = prepare_dataset(PrepareConfig(source=make_source(write)))
    assert rejects.is_empty()
    assert dataset.items["item_id"].to_list() == list(TITLES)
    assert dataset.items["title"].to_list() == list(TITLES.values())
    named = dataset.interactions.join(dataset.items, on="item_index", maintain_order="left")
    assert dict(named.group_by("user_id", maintain_order=True).agg("item_id").iter_rows()) == SEQUENCES
    assert dataset.interactions["timestamp"].to_list() == [10, 20, 30, 30, 9, 25]


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_names_the_files_that_it_reads_and_never_changes_them(make_source, write):
    config = make_source(write)
    before = {path: path.read_bytes() for path in config.files().values() if path.is_file()}
    read_source(config)
    assert config.files()
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("write", [as_ml_100k, as_ml_1m, as_ml_latest, as_ml_wheel])
def test_movies_have_year_and_genres(make_source, write):
    items = read_source(make_source(write)).items.rows
    assert items["year"].to_list() == ["1990", "1991", "1992", "1993"]
    assert items["genres"].to_list() == ["Action, Comedy", "Drama", "Comedy", "Drama, War"]
    assert items["description"].equals(items["genres"].alias("description"))


def test_amazon_items_have_the_same_further_columns_in_every_release(make_source):
    for write in (as_amazon_2014, as_amazon_2018, as_amazon_2023):
        items = read_source(make_source(write)).items.rows
        assert items.columns == [*("item_id", "title", "description", "brand", "categories", "features", "source_row")]
    assert items.row(0) == ("10", "Alpha (1990)", "a b", "S", None, "", 1)


def test_movielens_elsewhere_says_what_it_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"expected u\.data \(ml-100k\)"):
        read_source(MovielensConfig(path=str(tmp_path)))
    with pytest.raises(DataError, match="no such file or folder"):
        read_source(MovielensConfig(path=str(tmp_path / "none")))
    (tmp_path / "ml.zip").write_text("no zip")
    with pytest.raises(DataError, match="expected a folder or a zip file"):
        read_source(MovielensConfig(path=str(tmp_path / "ml.zip")))
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n")
    with pytest.raises(DataError, match=r"no file movies\.csv in it"):
        read_source(MovielensConfig(path=str(tmp_path)))


def test_recbole_needs_one_log_and_its_items(tmp_path):
    with pytest.raises(DataError, match=r"expected one \.inter file, found 0"):
        read_source(RecboleConfig(path=str(tmp_path)))
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\n")
    with pytest.raises(DataError, match=r"x\.item: no such file"):
        read_source(RecboleConfig(path=str(tmp_path)))


def as_examples(folder):
    write_lines(folder / "items.csv", ["item_id,title,description", *(f"{i},{t}," for i, t in TITLES.items())])
    for name in ("train", "valid", "test"):
        write_lines(folder / f"{name}.csv", ["user,past,next,at", "1,10|20,30,1970-01-02"])
    pl.DataFrame({"user": [1], "past": [[10, 20]], "next": [30], "at": ["1970-01-02"]}).write_parquet(
        folder / "t.parquet"
    )
    return ExamplesConfig(
        items=str(folder / "items.csv"),
        train=str(folder / "train.csv"),
        valid=str(folder / "valid.csv"),
        test=str(folder / "t.parquet"),
        example_columns=ExampleColumns(user_id="user", history="past", target="next", timestamp="at"),
        history_separator="|",
        time_format="iso",
    )


def test_examples_read_joined_ids_and_list_columns_alike(tmp_path):
    raw = read_source(as_examples(tmp_path))
    for split in ("train", "test"):
        assert raw.examples[split].rows.row(0)[:4] == ("1", ["10", "20"], "30", 86_400 * 10**6)


def test_examples_without_user_target_or_time_are_set_aside(tmp_path):
    config = as_examples(tmp_path)
    write_lines(
        tmp_path / "train.csv",
        ["user,past,next,at", ",10,30,1970-01-02", "1,10,,1970-01-02", "1,,30,soon", "1,,30,1970-01-02"],
    )
    train = read_source(config).examples["train"]
    assert train.rejects["reason"].to_list() == ["missing user_id", "missing target", "missing or unparsable timestamp"]
    assert train.rows["history"].to_list() == [[]]


def test_an_empty_separator_is_refused():
    with pytest.raises(ConfigError, match="history_separator is empty"):
        ExamplesConfig(items="i", train="t", valid="v", test="t", history_separator="")


def write_minionerec(folder, history="[10, 20]", index=None):
    for split in ("train", "valid", "test"):
        (folder / split).mkdir(parents=True)
        row = f'A1,"[]",T,"{history}",30,"[]",x'
        header = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid"
        write_lines(folder / split / "Toys_5_2016-10-2018-11.csv", [header, row])
    (folder / "index").mkdir()
    entries = index or {item: ["<a_1>", "<b_2>", f"<c_{item}>"] for item in TITLES}
    (folder / "index" / "Toys.index.json").write_text(json.dumps(entries))
    items = {item: {"title": title, "description": "['x', 'y']"} for item, title in TITLES.items()}
    (folder / "index" / "Toys.item.json").write_text(json.dumps(items))
    return MinionerecConfig(path=str(folder), category="Toys")


@pytest.mark.parametrize("history", ["[10, 20]", "['10', '20']"])
def test_minionerec_files_are_read_in_either_notation(tmp_path, history):
    raw = read_source(write_minionerec(tmp_path, history))
    assert raw.examples["train"].rows.row(0)[:3] == ("A1", ["10", "20"], "30")
    assert raw.items.rows.row(0)[:3] == ("10", "Alpha (1990)", "x y")
    assert raw.given_codes.row(0) == ("10", [1, 2, 10])


def test_minionerec_text_is_never_evaluated(tmp_path):
    train = read_source(write_minionerec(tmp_path, "[__import__('os').abort()]")).examples["train"]
    assert train.rejects["reason"].to_list() == ["history_item_id is not a list"]


def test_a_further_token_of_some_items_is_cut_off(tmp_path, caplog):
    path = tmp_path / "x.index.json"
    path.write_text('{"0": ["<a_1>", "<b_2>", "<d_1>"], "1": ["<a_3>", "<b_4>"]}')
    assert read_index(path).rows() == [("0", [1, 2]), ("1", [3, 4])]
    assert "1 items have more than 2 tokens" in caplog.text


@pytest.mark.parametrize("content", ["[", "[]", '{"0": []}', '{"0": ["a_1"]}', '{"0": "<a_1>"}'])
def test_a_damaged_index_is_named(tmp_path, content):
    path = tmp_path / "x.index.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"x\.index\.json: "):
        read_index(path)


def test_an_index_that_lacks_an_item_is_refused(tmp_path):
    from itemic.core.run import Run
    from itemic.data import prepare

    source = write_minionerec(tmp_path / "data", index={"10": ["<a_1>"]})
    with pytest.raises(DataError, match="the index has no semantic ID for 3 items, first '20'"):
        prepare(PrepareConfig(source=source, split="given"), Run(tmp_path / "run"), seed=0)


def test_minionerec_files_that_are_missing_are_named(tmp_path):
    with pytest.raises(DataError, match=r"train: expected one file Toys\.csv, found 0"):
        MinionerecConfig(path=str(tmp_path), category="Toys").files()
