"""Ranked lists as Arrow tables, a row a recommendation or a row a user; knows no model and no file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa

from itemic.core.ranking import Recommendations
from itemic.decode.recommender import top_probabilities

__all__ = ["AnswerTable", "Layout"]

Layout = Literal["long", "lists"]


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerTable:
    """How ranked lists are written."""

    item_ids: pa.Array
    """Id of each item row."""
    titles: pa.Array | None
    """Title of each item row; None leaves the column out."""
    user_type: pa.DataType
    """Type of ``user_id``."""
    layout: Layout
    """``long``: a row a recommendation, best first, users in the order of the input. ``lists``: a row a user with a
    list a column; exploding them gives ``long`` without the rank."""
    probabilities: Callable[[Recommendations], np.ndarray] = top_probabilities
    """From lists to what stands in the column ``probability``."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        columns = [("item_id", pa.string()), ("title", pa.string())][: 1 if self.titles is None else 2]
        columns += [("score", pa.float32()), ("probability", pa.float32())]
        user = ("user_id", self.user_type)
        if self.layout == "lists":
            return pa.schema([user, *((name, pa.list_(kind)) for name, kind in columns)])
        return pa.schema([user, ("rank", pa.int32()), *columns])

    def make(self, user_id: pl.Series, lists: Recommendations) -> pa.Table:
        """Returns the rows of some users.

        Args:
            user_id: B users.
            lists: Their recommendations, in the same order.
        """
        user, place = np.nonzero(lists.item_index >= 0)
        item = pa.array(lists.item_index[user, place])
        columns = {"item_id": self.item_ids.take(item)}
        if self.titles is not None:
            columns["title"] = self.titles.take(item)
        columns["score"] = pa.array(lists.score[user, place].astype(np.float32))
        columns["probability"] = pa.array(self.probabilities(lists)[user, place].astype(np.float32))
        users = user_id.to_arrow().cast(self.user_type)
        if self.layout == "lists":
            start = pa.array(np.searchsorted(user, np.arange(len(lists) + 1)).astype(np.int32))
            wrapped = {
                name: pa.ListArray.from_arrays(start, values.cast(self.schema.field(name).type.value_type))
                for name, values in columns.items()
            }
            return pa.table({"user_id": users, **wrapped}, schema=self.schema)
        rank = pa.array((place + 1).astype(np.int32))
        return pa.table({"user_id": users.take(pa.array(user)), "rank": rank, **columns}).cast(self.schema)
