"""Fills a page's template: styles and scripts inlined, every word escaped; knows nothing of any page's content.

A page's security policy forbids every network request: opened offline or online, it shows the same.
"""

import importlib.resources
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

__all__ = ["Fact", "fill_page", "read_asset", "write_json_script"]


_SHARED = {"style": "style.css", "dark": "dark.css", "frame": "frame.js"}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One figure with its name: a tile on the page."""

    label: str
    """What it is."""
    value: str
    """The figure, written for a reader."""
    note: str = ""
    """An interval, a unit, a comparison."""


def fill_page(
    package: str,
    values: Mapping[str, Any],
    *,
    filters: Mapping[str, Callable[..., Any]] | None = None,
    tests: Mapping[str, Callable[..., bool]] | None = None,
) -> str:
    """Returns the page that a package's ``template.html`` makes of some values.

    Besides the values the template knows ``style``, ``dark`` and ``frame``, the common style sheets and script, and
    can import the macros of ``parts.html``. A name that it does not know raises.

    Args:
        package: Name of the package that holds ``template.html``.
        values: What the template shows; text is escaped.
        filters: Further filters by name.
        tests: Further tests by name.
    """
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(lambda name: _find_template(package, name)),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= dict(filters or {})
    environment.tests |= dict(tests or {})
    shared = {name: read_asset(__package__, file) for name, file in _SHARED.items()}
    page: str = environment.get_template("template.html").render(**shared, **values)
    return page.lstrip()


def read_asset(package: str, name: str) -> Markup:
    """Returns a package's style sheet or script, to be written into a page as it is."""
    return Markup(_read_text(package, name))


def write_json_script(value: Any) -> Markup:
    """Returns a value as JSON for a script element: no ``<`` can close it; NaN and infinities become null."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _find_template(package: str, name: str) -> str:
    return _read_text(__package__ if name == "parts.html" else package, name)


def _read_text(package: str, name: str) -> str:
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")
