"""From an interaction log and a catalogue, in any of several formats, to the run's Dataset."""

from itemic.data.cold import ColdConfig, hold_out
from itemic.data.columns import InteractionColumns, ItemColumns
from itemic.data.export import export_minionerec
from itemic.data.lookup import find_items
from itemic.data.prepare import PrepareConfig, prepare, prepare_dataset
from itemic.data.raw import RawLog
from itemic.data.sources import SourceConfig, read_source
from itemic.data.sources.amazon import AmazonConfig
from itemic.data.sources.examples import ExampleColumns, ExamplesConfig
from itemic.data.sources.minionerec import MinionerecConfig
from itemic.data.sources.movielens import MovielensConfig
from itemic.data.sources.recbole import RecboleConfig
from itemic.data.sources.table import TableConfig

__all__ = [
    "AmazonConfig",
    "ColdConfig",
    "ExampleColumns",
    "ExamplesConfig",
    "InteractionColumns",
    "ItemColumns",
    "MinionerecConfig",
    "MovielensConfig",
    "PrepareConfig",
    "RawLog",
    "RecboleConfig",
    "SourceConfig",
    "TableConfig",
    "export_minionerec",
    "find_items",
    "hold_out",
    "prepare",
    "prepare_dataset",
    "read_source",
]
