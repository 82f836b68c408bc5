"""The report of a run: ``report.html``, one page that opens offline, and the metrics as a table for the terminal.

``report`` is the stage; ``sections/`` turns artefacts into words, tables and figures, ``template.html`` shows them.
"""

from itemic.evaluate.report.report import ReportConfig, render_report, report
from itemic.evaluate.report.table import metrics_table

__all__ = ["ReportConfig", "metrics_table", "render_report", "report"]
