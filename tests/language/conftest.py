"""A renderer with a chat template, and a sid-only one."""

from collections.abc import Callable

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from itemic.language.prompts import Renderer
from itemic.language.spelling import Spelling
from itemic.model.backbone import make_sid_tokenizer

CODES = np.array([[0, 1, 2], [0, 1, 0], [3, 3, 3], [1, 0, 2], [2, 2, 1]])


@pytest.fixture(params=["plain", "wrapped"])
def spelling(request: pytest.FixtureRequest) -> Spelling:
    return Spelling(style=request.param, codebook_sizes=(4, 4, 4))


@pytest.fixture
def chat(spelling: Spelling, byte_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> Renderer:
    return Renderer(byte_tokenizer(spelling), spelling, CODES, "chat")


@pytest.fixture
def sid_only(spelling: Spelling) -> Renderer:
    return Renderer(make_sid_tokenizer(spelling), spelling, CODES, "sid-only")
