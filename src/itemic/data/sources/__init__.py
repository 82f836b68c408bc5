"""Source formats, one a file: each a config with its ``format`` name and a ``read`` that returns a RawLog."""

from typing import Annotated

import pydantic

from itemic.data.raw import RawLog
from itemic.data.sources import amazon, examples, minionerec, movielens, recbole, table
from itemic.data.sources.amazon import AmazonConfig
from itemic.data.sources.examples import ExamplesConfig
from itemic.data.sources.minionerec import MinionerecConfig
from itemic.data.sources.movielens import MovielensConfig
from itemic.data.sources.recbole import RecboleConfig
from itemic.data.sources.table import TableConfig

__all__ = ["SourceConfig", "read_source"]

SourceConfig = Annotated[
    TableConfig | MovielensConfig | RecboleConfig | AmazonConfig | MinionerecConfig | ExamplesConfig,
    pydantic.Field(discriminator="format"),
]
"""Any source; the key ``format`` says which."""


def read_source(config: SourceConfig) -> RawLog:
    """Returns what the source's own reader makes of it."""
    match config:
        case TableConfig():
            return table.read(config)
        case AmazonConfig():
            return amazon.read(config)
        case MinionerecConfig():
            return minionerec.read(config)
        case MovielensConfig():
            return movielens.read(config)
        case RecboleConfig():
            return recbole.read(config)
        case ExamplesConfig():
            return examples.read(config)
