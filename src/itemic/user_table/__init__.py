"""Recommendations for a whole table of users; reads, asks the trained run and writes, in chunks."""

from itemic.user_table.recommend import TableSummary, recommend_table
from itemic.user_table.source import ALL_USERS

__all__ = ["ALL_USERS", "TableSummary", "recommend_table"]
