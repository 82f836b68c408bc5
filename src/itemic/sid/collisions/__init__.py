"""itemic.sid.collisions: what to do with items that a quantizer gave the same codes."""

from itemic.sid.collisions.settle import CollisionStrategy, SettledCodes, settle_collisions
from itemic.sid.collisions.unique import resolve_unique

__all__ = ["CollisionStrategy", "SettledCodes", "resolve_unique", "settle_collisions"]
