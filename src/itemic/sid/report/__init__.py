"""itemic.sid.report: the semantic IDs of a run as one page that opens offline."""

from itemic.sid.report.report import render_sid_report, write_sid_report

__all__ = ["render_sid_report", "write_sid_report"]
