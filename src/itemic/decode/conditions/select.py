"""From conditions on catalogue columns to sets of items, each kept under its text. Knows no request."""

import copy
import hashlib
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl
from jaxtyping import Bool

from itemic.core.errors import CatalogError, ConfigError
from itemic.decode.conditions.columns import check_columns
from itemic.decode.conditions.hints import missing_values
from itemic.decode.conditions.parse import parse_condition
from itemic.decode.item_sets import ItemSet
from itemic.decode.trie import Trie

__all__ = ["Condition", "ItemSelector", "Where", "condition_key", "item_mask"]

log = logging.getLogger("itemic")

Condition = str | pl.Expr
"""What an item must fulfil: text as ``parse_condition`` reads it, or a polars expression that is true or false."""

Where = Condition | Sequence[Condition]
"""One condition, or several of which all must hold."""

_MOST_KEPT = 64
_RELATIVE = re.compile(r"\bwithin\b", re.IGNORECASE)


def item_mask(items: pl.DataFrame, where: Where, now: datetime) -> Bool[np.ndarray, "N"]:
    """Returns for each item whether the conditions hold; where one needs a value that is missing it does not.

    Warns where that is no item, and names values that none has.

    Args:
        items: The catalogue, row i is item_index i.
        where: The conditions.
        now: The moment from which ``within`` counts back, in UTC without a zone.

    Raises:
        ConfigError: if a text is no condition, or a column is not there or has another type.
        DataError: if most of a text column cannot be read as the number or date that it is compared with.
    """
    mask = np.ones(items.height, dtype=bool)
    for condition in _conditions(where):
        expression = parse_condition(condition, items, now) if isinstance(condition, str) else condition
        holds = _evaluate(items, expression)
        if not holds.any():
            hints = missing_values(items, condition, now) if isinstance(condition, str) else []
            log.warning("%s", "; ".join([f"condition {_shown(condition)} holds for no item", *hints]))
        elif mask.any() and not (mask & holds).any():
            log.warning("condition %s holds for no item for which those before it hold", _shown(condition))
        mask &= holds
    return mask


class ItemSelector:
    """Makes the set of the items for which conditions hold, and keeps the last 64 of them."""

    def __init__(self, items: pl.DataFrame, trie: Trie, clock: Callable[[], datetime] | None = None) -> None:
        """Keeps the catalogue.

        Args:
            items: The catalogue, row i is item_index i.
            trie: The tree of its semantic IDs.
            clock: From nothing to the present with a zone; the system's where None.

        Raises:
            CatalogError: if the catalogue has not as many items as the tree's.
        """
        if items.height != len(trie.slot_of_item):
            raise CatalogError(f"a table of {items.height} items for a catalog of {len(trie.slot_of_item)}")
        self._items = items
        self._trie = trie
        self._clock = clock or (lambda: datetime.now(UTC))
        self._kept: OrderedDict[Hashable, ItemSet] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, moment: datetime) -> "ItemSelector":
        """Returns a selector of the same items whose clock stands still; both keep their sets in one place.

        Args:
            moment: From which ``within`` counts back, with a zone.
        """
        frozen = copy.copy(self)
        frozen._clock = lambda: moment
        return frozen

    def select(self, where: Where) -> ItemSet | None:
        """Returns the items for which the conditions hold; None where there is no condition.

        A condition that counts back from now is kept for the running minute.

        Raises:
            ConfigError: as ``item_mask`` does.
            DataError: as ``item_mask`` does.
        """
        conditions = _conditions(where)
        if not conditions:
            return None
        now = self._clock().astimezone(UTC).replace(second=0, microsecond=0, tzinfo=None)
        is_relative = any(isinstance(one, str) and _RELATIVE.search(one) for one in conditions)
        key = (now if is_relative else None, *map(condition_key, conditions))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = ItemSet.from_mask(self._trie, item_mask(self._items, conditions, now))
            self._kept.move_to_end(key)
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]


def _conditions(where: Where) -> tuple[Condition, ...]:
    return (where,) if isinstance(where, (str, pl.Expr)) else tuple(where)


def _shown(condition: Condition) -> str:
    return repr(condition) if isinstance(condition, str) else str(condition)


def condition_key(condition: Condition) -> str:
    """Returns a text that no other condition has: the condition itself, or an expression with a hash of all of it.

    An expression alone will not do: polars leaves out the middle of a long list when it writes one.

    Raises:
        ConfigError: if it is neither text nor an expression.
    """
    if isinstance(condition, str):
        return condition
    if not isinstance(condition, pl.Expr):
        raise ConfigError(f"where holds {condition!r}; expected conditions, text or polars expressions")
    return f"{condition} [{hashlib.sha256(condition.meta.serialize()).hexdigest()}]"


def _evaluate(items: pl.DataFrame, expression: pl.Expr) -> Bool[np.ndarray, "N"]:
    """Returns the truth of an expression for each item, false where it is null."""
    names = expression.meta.root_names()
    check_columns(items, names)
    types = ", ".join(f"{name} is {items.schema[name]}" for name in names) or "it names no column"
    try:
        found = items.select(expression.alias("holds"))["holds"]
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"condition {expression} cannot be computed ({types}): {error}") from None
    if found.dtype != pl.Boolean or len(found) != items.height:
        raise ConfigError(
            f"condition {expression} gives {len(found)} values of type {found.dtype}; expected true or false for each "
            f"of {items.height} items ({types})"
        )
    return np.array(found.fill_null(False))
