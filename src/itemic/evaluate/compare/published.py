"""The figures that papers and others report, by benchmark and method: ``published.yaml``; knows no run."""

import difflib
import functools
import importlib.resources
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import yaml

from itemic.core.config import config_from_mapping
from itemic.core.errors import ConfigError

__all__ = ["Benchmark", "PublishedFigures", "check_published", "find_benchmark", "find_figures", "read_benchmarks"]


@dataclass(frozen=True, kw_only=True)
class PublishedFigures:
    """What one source reports of a method."""

    kind: Literal["paper", "re-run"]
    """Whether it is what the method's side claims, or what somebody else found."""
    source: str
    """Paper and table, or who re-ran it."""
    metrics: Mapping[str, float]
    """Share by label, ``HR@10`` say."""
    note: str = ""
    """What a reader should know of them."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set with a protocol, and what is reported on it."""

    title: str
    protocol: str
    """Split and candidates, in words."""
    num_examples: int
    """Test examples of the data that the figures were made with."""
    num_candidates: int
    """Items of its catalogue."""
    note: str = ""
    """In what the figures differ from those made here."""
    methods: Mapping[str, tuple[PublishedFigures, ...]] = field(default_factory=dict)
    """What is reported, by method; the first is the one that stands beside a row."""


@dataclass(frozen=True, kw_only=True)
class _Benchmarks:
    benchmarks: Mapping[str, Benchmark]


@functools.cache
def read_benchmarks() -> Mapping[str, Benchmark]:
    """Returns every benchmark by its name."""
    text = importlib.resources.files(__package__).joinpath("published.yaml").read_text(encoding="utf-8")
    return config_from_mapping(_Benchmarks, yaml.safe_load(text), source="published.yaml").benchmarks


def find_benchmark(name: str) -> Benchmark:
    """Returns a benchmark by its name.

    Raises:
        ConfigError: naming the nearest where there is none of that name.
    """
    benchmarks = read_benchmarks()
    if name not in benchmarks:
        raise ConfigError(f"benchmark {name!r} has no published figures; {_nearest(name, benchmarks)}")
    return benchmarks[name]


def find_figures(benchmark: str, method: str) -> tuple[PublishedFigures, ...]:
    """Returns what is reported of a method on a benchmark.

    Raises:
        ConfigError: naming the nearest where there is no such benchmark or method.
    """
    methods = find_benchmark(benchmark).methods
    if method not in methods:
        raise ConfigError(f"published {method!r}: nothing is listed on {benchmark}; {_nearest(method, methods)}")
    return methods[method]


def check_published(benchmark: str, methods: Iterable[str]) -> None:
    """Checks the names that a recipe gives; empty ones ask for nothing.

    Args:
        benchmark: Of the recipe.
        methods: Of its rows; without a benchmark they may be listed on any.

    Raises:
        ConfigError: naming the nearest of what there is.
    """
    if benchmark:
        find_benchmark(benchmark)
    for method in filter(None, methods):
        if benchmark:
            find_figures(benchmark, method)
            continue
        known = sorted({one for each in read_benchmarks().values() for one in each.methods})
        if method not in known:
            raise ConfigError(f"published {method!r}: nothing is listed on any benchmark; {_nearest(method, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    by_lower = {one.lower(): one for one in known}
    nearest = [by_lower[one] for one in difflib.get_close_matches(name.lower(), list(by_lower), n=3, cutoff=0.4)]
    return f"did you mean {', '.join(nearest)}?" if nearest else f"there are {', '.join(known)}"
