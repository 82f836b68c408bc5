"""itemic.core.page: what offline pages share: look, frame, markup of facts and tables, how numbers are written."""

from itemic.core.page.page import Fact, fill_page, write_json_script

__all__ = ["Fact", "fill_page", "write_json_script"]
