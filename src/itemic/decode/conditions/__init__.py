"""Conditions on catalogue columns, such as ``stock > 0``: which items they hold for, as sets over the trie.

``parse`` reads the text, ``columns`` compares columns of any type through polars, ``select`` makes and keeps the sets.
"""

from itemic.decode.conditions.parse import parse_condition
from itemic.decode.conditions.select import Condition, ItemSelector, Where, condition_key, item_mask

__all__ = ["Condition", "ItemSelector", "Where", "condition_key", "item_mask", "parse_condition"]
