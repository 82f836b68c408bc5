"""Amazon Reviews as their authors publish them: the JSON lines of 2014, 2018 and 2023.

The three releases name the same fields differently, and no field means two things, so a row is read by the names that
it has. The 2014 metadata are Python dictionaries rather than JSON; they are read as literals.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import polars as pl

from itemic.data.columns import InteractionColumns, ItemColumns, make_interactions, make_items
from itemic.data.raw import RawLog
from itemic.data.reading import read_json_lines

__all__ = ["AmazonConfig", "read"]

_REVIEW_FIELDS = ("reviewerID", "user_id", "asin", "parent_asin", "unixReviewTime", "timestamp", "overall", "rating")
_ITEM_FIELDS = (
    *("asin", "parent_asin", "title", "description", "brand", "store"),
    *("categories", "category", "features", "feature"),
)


@dataclass(frozen=True, kw_only=True)
class AmazonConfig:
    """The reviews and the metadata of one category, of any release."""

    format: Literal["amazon"] = "amazon"
    """Names this source in a recipe."""
    reviews: str
    """``reviews_Beauty_5.json.gz`` (2014), ``All_Beauty_5.json.gz`` (2018) or ``All_Beauty.jsonl.gz`` (2023), say;
    unpacked or not."""
    metadata: str
    """``meta_<category>.json`` or ``.jsonl`` of the same release; unpacked or not."""

    def files(self) -> dict[str, Path]:
        """Returns the files to be read, by a short name."""
        return {"reviews": Path(self.reviews), "metadata": Path(self.metadata)}


def read(config: AmazonConfig) -> RawLog:
    """Returns the reviews as interactions, and the items with title, description, brand, categories and features.

    In the 2023 release an item is its ``parent_asin``, as in the authors' own benchmark files: variants of colour and
    size are one item.

    Raises:
        DataError: if a file is missing or is not JSON lines.
    """
    files = config.files()
    reviews = read_json_lines(files["reviews"], columns=_REVIEW_FIELDS)
    seconds = pl.concat_str(pl.col("unixReviewTime").str.strip_suffix(".0"), pl.lit("000"))
    review = reviews.rows.select(
        pl.coalesce("user_id", "reviewerID"),
        pl.coalesce("parent_asin", "asin").alias("item_id"),
        pl.coalesce("timestamp", seconds),
        pl.coalesce("rating", "overall"),
        "source_row",
    )
    metadata = read_json_lines(files["metadata"], columns=_ITEM_FIELDS)
    item = metadata.rows.select(
        pl.coalesce("parent_asin", "asin").alias("item_id"),
        "title",
        "description",
        pl.coalesce("brand", "store"),
        pl.coalesce("categories", "category"),
        pl.coalesce("features", "feature"),
        "source_row",
    )
    return RawLog(
        interactions=make_interactions(
            replace(reviews, rows=review), InteractionColumns(rating="rating"), time_format="ms"
        ),
        items=make_items(replace(metadata, rows=item), ItemColumns()),
    )
