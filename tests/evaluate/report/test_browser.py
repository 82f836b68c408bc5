"""The page in a real browser, where one is installed: the script runs, unpacks plotly and draws every chart."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from itemic.core.run import Run
from itemic.evaluate.report import ReportConfig, render_report

_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


@pytest.mark.slow
@pytest.mark.skipif(_BROWSER is None, reason="no Chromium on this machine")
def test_every_chart_is_drawn(reinforced_run: Run, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_report(ReportConfig(), reinforced_run, seed=3), encoding="utf-8")
    command = [str(_BROWSER), *_FLAGS, f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=60000"]
    result = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=180, check=True
    )
    drawn = result.stdout
    assert 'data-charts="drawn"' in drawn
    num_charts = len(re.findall(r'<script type="application/json" class="specs">', drawn))
    assert len(re.findall(r'<div class="chart[^"]*js-plotly-plot"', drawn)) == num_charts > 18
    assert len(re.findall(r"data-board=\"\d+\"[^>]*hidden", drawn)) == 4
