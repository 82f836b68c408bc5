"""Shape checks for every annotated function while tests run; nothing is timed."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

install_import_hook("itemic", "beartype.beartype")
