"""Fills the report's template: charts and plotly inlined, the rest as on every page; knows nothing of the content.

plotly.js is 4.8 MB, so it travels compressed (2 MB as text) and is unpacked by the browser.
"""

import base64
import functools
import gzip
from typing import Any

import plotly.offline
from markupsafe import Markup

from itemic.core.page.page import fill_page, read_asset, write_json_script
from itemic.evaluate.report.figures import Figure

__all__ = ["figure_views", "fill_template", "packed_plotly"]


def fill_template(**sections: Any) -> str:
    """Returns the page with these sections."""
    own = {"script": read_asset(__package__, "page.js"), "plotly": packed_plotly()}
    return fill_page(
        __package__,
        {**own, **sections},
        filters={"views": figure_views},
        tests={"missing": lambda section: type(section).__name__ == "Missing"},
    )


def figure_views(figure: Figure) -> Markup:
    """Returns the charts of a figure as ``page.js`` reads them."""
    return write_json_script([view.spec for view in figure.views])


@functools.cache
def packed_plotly() -> str:
    """Returns plotly.js as base64 of gzip, the same for the same version."""
    packed = gzip.compress(plotly.offline.get_plotlyjs().encode("utf-8"), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii")
