"""Baselines that read a history in its order: one network a file, one training loop, one recommender around them.

SASRec and HSTU learn from windows, every position at once, with cross-entropy over the whole catalogue; GRU4Rec,
Caser and SASRec with the binary cross-entropy learn from examples, as the table they were published in.
"""

from itemic.baselines.sequential.caser import Caser, CaserConfig
from itemic.baselines.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from itemic.baselines.sequential.hstu import HSTU, HSTUConfig
from itemic.baselines.sequential.sasrec import SASRec, SASRecConfig
from itemic.baselines.sequential.sasrec_bce import SASRecBCE, SASRecBCEConfig

__all__ = [
    "HSTU",
    "Caser",
    "CaserConfig",
    "GRU4Rec",
    "GRU4RecConfig",
    "HSTUConfig",
    "SASRec",
    "SASRecBCE",
    "SASRecBCEConfig",
    "SASRecConfig",
]
