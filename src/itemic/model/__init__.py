"""Language models that speak semantic IDs: loading or making a network, giving it the vocabulary, saving it.

``backbone`` is the only importer of transformers, ``adapters`` of peft; both import inside functions, so importing
this package is cheap.
"""

from itemic.model.backbone import DecoderConfig, load_backbone, make_decoder, make_sid_tokenizer
from itemic.model.dropout import add_dropout
from itemic.model.sid_model import KeyValueCache, PromptMode, SidModel

__all__ = [
    "DecoderConfig",
    "KeyValueCache",
    "PromptMode",
    "SidModel",
    "add_dropout",
    "load_backbone",
    "make_decoder",
    "make_sid_tokenizer",
]
