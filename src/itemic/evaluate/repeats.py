"""Why a row that repeats a history equals popularity where seen items are left out; reads ``metrics.json``."""

from collections.abc import Mapping
from typing import Any

__all__ = ["repeat_notes"]

_KIND = "repeat-last"


def repeat_notes(protocol: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns a sentence on each row that may not repeat anything; none where seen items may come again.

    Args:
        protocol: How the rows were evaluated.
        rows: Each row's entry of ``metrics.json`` by the name it is shown under.
    """
    if not protocol.get("exclude_history"):
        return ()
    return tuple(
        f"{name} has nothing to repeat here, for seen items are left out: what remains of it is popularity."
        for name, row in rows.items()
        if (row.get("settings") or {}).get("kind") == _KIND
    )
