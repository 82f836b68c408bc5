"""A byte tokenizer with a chat template, and a sid-only one: real Hugging Face tokenizers, small enough to read."""

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from itemic.language.prompts import Renderer
from itemic.language.spelling import Spelling
from itemic.model.backbone import make_sid_tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(spelling: Spelling, template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.add_tokens([AddedToken(token, normalized=False) for token in spelling.tokens()])
    fast.chat_template = template
    return fast


CODES = np.array([[0, 1, 2], [0, 1, 0], [3, 3, 3], [1, 0, 2], [2, 2, 1]])


@pytest.fixture(params=["plain", "wrapped"])
def spelling(request: pytest.FixtureRequest) -> Spelling:
    return Spelling(style=request.param, codebook_sizes=(4, 4, 4))


@pytest.fixture
def chat(spelling: Spelling) -> Renderer:
    return Renderer(byte_tokenizer(spelling), spelling, CODES, "chat")


@pytest.fixture
def sid_only(spelling: Spelling) -> Renderer:
    return Renderer(make_sid_tokenizer(spelling), spelling, CODES, "sid-only")
