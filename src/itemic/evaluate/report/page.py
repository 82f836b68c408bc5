"""Fills the page's template: style, script and plotly inlined, every word escaped; knows nothing of the content.

plotly.js is 4.8 MB, so it travels compressed (2 MB as text) and is unpacked by the browser. The page's security
policy forbids every network request: opened offline or online, it shows the same.
"""

import base64
import functools
import gzip
import importlib.resources
import json
import math
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from itemic.evaluate.report.figures import Figure

__all__ = ["fill_template", "write_json_script"]


def fill_template(**sections: Any) -> str:
    """Returns the page with these sections."""
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(_read_text),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["views"] = _figure_views
    environment.tests["missing"] = lambda section: type(section).__name__ == "Missing"
    page: str = environment.get_template("template.html").render(
        style=Markup(_read_text("style.css")),
        dark=Markup(_read_text("dark.css")),
        script=Markup(_read_text("page.js")),
        plotly=_packed_plotly(),
        **sections,
    )
    return page.lstrip()


def write_json_script(value: Any) -> Markup:
    """Returns a value as JSON for a script element: no ``<`` can close it; NaN and infinities become null."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _figure_views(figure: Figure) -> Markup:
    return write_json_script([view.spec for view in figure.views])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_text(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _packed_plotly() -> str:
    """Returns plotly.js as base64 of gzip, the same for the same version."""
    packed = gzip.compress(plotly.offline.get_plotlyjs().encode("utf-8"), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii")
