"""A tiny BERT in a folder, as sentence-transformers saves one: enough to run both backends without a download."""

import pytest

WORDS = ["a", "b", "c", "blue", "red", "pump", "valve", "steel", "bolt", "nut", "seal", "of", "the"]


def make_tiny_bert(folder, *, hidden_size=16):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({token: row for row, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain_bert(tmp_path_factory):
    """Folder of a tiny BERT that says nothing of pooling."""
    return make_tiny_bert(tmp_path_factory.mktemp("plain") / "bert")


@pytest.fixture(scope="session")
def sentence_bert(tmp_path_factory):
    """Folder of a tiny BERT with mean pooling, a limit of 8 tokens and normalisation, in the files that say so."""
    from itemic.core.files import write_json

    folder = make_tiny_bert(tmp_path_factory.mktemp("sentence") / "bert")
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [
        {"idx": row, "name": str(row), "path": path, "type": f"sentence_transformers.models.{name}"}
        for row, (path, name) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 8, "do_lower_case": False})
    return folder
