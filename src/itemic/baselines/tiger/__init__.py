"""TIGER: an encoder-decoder transformer over semantic IDs, trained from scratch (Rajput et al., 2023).

``network`` is the transformer, ``training`` its lessons and the choice of the epoch, ``search`` the way down the
catalog's tree, ``recommender`` the door.
"""

from itemic.baselines.tiger.config import TIGERConfig
from itemic.baselines.tiger.recommender import TIGER

__all__ = ["TIGER", "TIGERConfig"]
