"""One honest table of any runs: seeds averaged, intervals, corrected paired tests, published figures beside.

``read_rows`` reads runs, ``build_table`` computes, ``render`` writes; ``docs/compare.md`` has the words.
"""

from itemic.evaluate.compare.published import check_published, find_benchmark, find_figures, read_benchmarks
from itemic.evaluate.compare.records import ComparisonTable, Difference, Estimate, PublishedCheck, TableRow
from itemic.evaluate.compare.runs import RunRow, read_rows
from itemic.evaluate.compare.table import CompareConfig, build_table

__all__ = [
    "CompareConfig",
    "ComparisonTable",
    "Difference",
    "Estimate",
    "PublishedCheck",
    "RunRow",
    "TableRow",
    "build_table",
    "check_published",
    "find_benchmark",
    "find_figures",
    "read_benchmarks",
    "read_rows",
]
