"""The page of the semantic IDs: a run folder's catalog becomes ``sids.html``, one file that opens offline.

Reads top to bottom: read what is there, describe each section, fill the template, write. The page is a function of
the folder and the seed alone, so the same catalog gives the same bytes.
"""

from pathlib import Path

from itemic.core.files import atomic_path
from itemic.core.page.page import fill_page, read_asset, write_json_script
from itemic.core.run import Run
from itemic.core.seeds import derive_rng
from itemic.sid.report.artifacts import read_sid_artifacts
from itemic.sid.report.collided import describe_collisions
from itemic.sid.report.neighbours import describe_neighbours
from itemic.sid.report.summary import describe_quality, describe_summary, describe_use
from itemic.sid.report.tree import describe_tree

__all__ = ["PAGE_NAME", "render_sid_report", "write_sid_report"]

PAGE_NAME = "sids.html"
"""Name of the page in the run folder."""


def write_sid_report(run: Run, *, seed: int = 0, max_items: int = 12_000) -> Path:
    """Returns the path of the page after writing it into the run folder.

    Args:
        run: A run folder with a catalog.
        seed: Of the example items.
        max_items: Items that the page carries; of more it shows the largest prefixes and some items of each.

    Raises:
        ArtifactError: if there is no catalog, or an artefact is damaged.
    """
    path = run.path(PAGE_NAME)
    page = render_sid_report(run, seed=seed, max_items=max_items)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render_sid_report(run: Run, *, seed: int = 0, max_items: int = 12_000) -> str:
    """Returns the page's HTML; arguments and errors as ``write_sid_report``."""
    found = read_sid_artifacts(run)
    tree = describe_tree(found, max_items)
    return fill_page(
        __package__,
        {
            "own_style": read_asset(__package__, "sids.css"),
            "script": read_asset(__package__, "tree.js") + read_asset(__package__, "sids.js"),
            "summary": describe_summary(found),
            "tree": tree,
            "tree_data": write_json_script(tree.data),
            "use": describe_use(found),
            "collided": describe_collisions(found),
            "neighbours": describe_neighbours(found, derive_rng(seed, "sid report", "neighbours")),
            "quality": describe_quality(found),
        },
    )
