"""Which interactions and items stay: one function a filter.

A log here has the columns user and item (numbers), time_us, behaviour and rating. Knows neither sources nor splits.
"""

import html

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

__all__ = ["clean_titles", "drop_duplicates", "drop_repeats", "in_time_window", "k_core", "title_rule"]


def k_core(
    users: Int[np.ndarray, "R"], items: Int[np.ndarray, "R"], min_user: int, min_item: int
) -> Bool[np.ndarray, "R"]:
    """Returns which interactions stay when rare users and rare items are taken out until none is left to take.

    The result is the largest log in which every user has ``min_user`` and every item ``min_item`` interactions; it
    does not depend on the order. Repeats count as often as they occur.

    Args:
        users: User number of each interaction, from 0.
        items: Item number of each interaction, from 0.
        min_user: Interactions that a user must have.
        min_item: Interactions that an item must have.
    """
    kept = np.arange(len(users))
    while True:
        user, item = users[kept], items[kept]
        stays = (np.bincount(user)[user] >= min_user) & (np.bincount(item)[item] >= min_item)
        if stays.all():
            mask = np.zeros(len(users), dtype=bool)
            mask[kept] = True
            return mask
        kept = kept[stays]


def in_time_window(start_us: int | None, end_us: int | None) -> pl.Expr:
    """Returns the condition ``start <= time < end``; None leaves a side open."""
    conditions = [pl.lit(True)]
    if start_us is not None:
        conditions.append(pl.col("time_us") >= start_us)
    if end_us is not None:
        conditions.append(pl.col("time_us") < end_us)
    return pl.all_horizontal(conditions)


def drop_duplicates(log: pl.DataFrame) -> pl.DataFrame:
    """Returns the log with one event recorded several times kept once.

    Rows that agree in user, item, time, behaviour and rating are one event: the first stays. A row without a time
    is no duplicate.
    """
    same = pl.struct("user", "item", "time_us", "behaviour", "rating")
    return log.filter(pl.col("time_us").is_null() | same.is_first_distinct())


def drop_repeats(log: pl.DataFrame) -> pl.DataFrame:
    """Returns the log, in order of time, with the first interaction of every user and item only."""
    return log.filter(pl.struct("user", "item").is_first_distinct())


def clean_titles(titles: pl.Series) -> pl.Series:
    """Returns titles on one line, with HTML entities (``&amp;``, ``&quot;``) as characters."""
    escaped = titles.unique().drop_nulls()
    escaped = escaped.filter(escaped.str.contains("&", literal=True))
    plain = pl.Series([html.unescape(title) for title in escaped], dtype=pl.String)
    return titles.replace(escaped, plain).str.replace_all(r"[\t\n\r\x0b\x0c]+", " ").str.strip_chars()


def title_rule(min_words: int, max_words: int, forbidden: tuple[str, ...]) -> pl.Expr:
    """Returns the condition that a title has ``min_words`` to ``max_words`` words (0: no limit) and no forbidden text.

    Words are what blanks separate.
    """
    num_words = pl.col("title").str.count_matches(r"\S+")
    conditions = [num_words >= min_words]
    if max_words:
        conditions.append(num_words <= max_words)
    conditions += [~pl.col("title").str.contains(text, literal=True) for text in forbidden]
    return pl.all_horizontal(conditions)
