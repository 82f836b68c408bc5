"""From an interaction log and a catalogue, in any of several formats, to the run's Dataset."""

from itemic.data.prepare import PrepareConfig, prepare, prepare_dataset
from itemic.data.raw import RawLog
from itemic.data.sources import SourceConfig, read_source
from itemic.data.sources.examples import ExampleColumns, ExamplesConfig
from itemic.data.sources.movielens import MovielensConfig
from itemic.data.sources.recbole import RecboleConfig

__all__ = [
    "ExampleColumns",
    "ExamplesConfig",
    "MovielensConfig",
    "PrepareConfig",
    "RawLog",
    "RecboleConfig",
    "SourceConfig",
    "prepare",
    "prepare_dataset",
    "read_source",
]
