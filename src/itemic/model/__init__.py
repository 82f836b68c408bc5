"""Language models that speak semantic IDs: loading or making a network, giving it the vocabulary, training parts of it.

``backbone`` is the only importer of transformers, ``adapters`` of peft; both import inside functions, so importing
this package is cheap.
"""

from itemic.model.adapters import LoraConfig, add_lora, freeze_backbone, merge_adapters
from itemic.model.backbone import (
    DecoderConfig,
    checkpoint_activations,
    load_backbone,
    make_decoder,
    make_sid_tokenizer,
    make_word_tokenizer,
)
from itemic.model.dropout import add_dropout, remove_dropout
from itemic.model.new_rows import RowInit, codebook_rows, mean_rows, text_rows
from itemic.model.precision import Precision
from itemic.model.sid_model import KeyValueCache, SidModel
from itemic.model.vocabulary import expand_vocabulary

__all__ = [
    "DecoderConfig",
    "KeyValueCache",
    "LoraConfig",
    "Precision",
    "RowInit",
    "SidModel",
    "add_dropout",
    "add_lora",
    "checkpoint_activations",
    "codebook_rows",
    "expand_vocabulary",
    "freeze_backbone",
    "load_backbone",
    "make_decoder",
    "make_sid_tokenizer",
    "make_word_tokenizer",
    "mean_rows",
    "merge_adapters",
    "remove_dropout",
    "text_rows",
]
