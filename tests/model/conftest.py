from collections.abc import Callable
from typing import Any

import pytest
import torch

from itemic.language.spelling import Spelling
from itemic.model.backbone import make_sid_tokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING = ["sliding_attention", "full_attention"]

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-sliding": ("Qwen2", {"use_sliding_window": True, "sliding_window": 3, "layer_types": SLIDING}),
    "qwen3": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "smollm3": ("SmolLM3", {}),
    "mistral": ("Mistral", {"sliding_window": 3}),
    "gemma": ("Gemma", {"head_dim": 8}),
    "gemma2": ("Gemma2", {"head_dim": 8, "sliding_window": 3, "layer_types": SLIDING, "final_logit_softcapping": 2.0}),
    "gemma3": ("Gemma3Text", {"head_dim": 8, "sliding_window": 3, "layer_types": SLIDING}),
    "cohere": ("Cohere", {"logit_scale": 0.25}),
    "granite": ("Granite", {"logits_scaling": 4.0}),
}


def build(name: str) -> Any:
    """A tiny network of that architecture with weights large enough for any difference to show."""
    import transformers

    kind, extra = ARCHITECTURES[name]
    config = getattr(transformers, f"{kind}Config")(**SHAPE, **extra)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture(scope="session")
def make_network() -> Callable[[str], Any]:
    return build


@pytest.fixture
def spelling() -> Spelling:
    return Spelling(style="wrapped", codebook_sizes=(4, 4))


@pytest.fixture
def tokenizer(spelling: Spelling) -> Any:
    return make_sid_tokenizer(spelling)


@pytest.fixture
def word_tokenizer() -> Any:
    """A pretrained model's tokenizer in small: 30 words, no SID token and no padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(27))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
