"""itemic.sid.collisions: what to do with items that a quantizer gave the same codes, a strategy a file."""

from itemic.sid.collisions.settle import CollisionStrategy, SettledCodes, settle_collisions
from itemic.sid.collisions.sinkhorn import resolve_sinkhorn
from itemic.sid.collisions.suffix import add_suffix, suffix_size
from itemic.sid.collisions.unique import resolve_unique

__all__ = [
    "CollisionStrategy",
    "SettledCodes",
    "add_suffix",
    "resolve_sinkhorn",
    "resolve_unique",
    "settle_collisions",
    "suffix_size",
]
