"""itemic.embed: from item texts to one vector each, by sentence-transformers or any Hugging Face encoder."""

from itemic.embed.embed import EmbedConfig, embed, embed_texts, load_embeddings
from itemic.embed.encoder import TextEncoder
from itemic.embed.texts import item_texts

__all__ = ["EmbedConfig", "TextEncoder", "embed", "embed_texts", "item_texts", "load_embeddings"]
