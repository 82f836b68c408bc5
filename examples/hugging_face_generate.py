"""Real items only, from Hugging Face's own ``generate``: here by sampling, with no trained model at hand."""

import numpy as np
import torch

from itemic.decode import ItemFilter, Trie
from itemic.decode.adapters.hugging_face import SidLogitsProcessor
from itemic.language import SidTokens, Spelling
from itemic.model import DecoderConfig, make_decoder, make_sid_tokenizer

rng = np.random.default_rng(0)
sizes = (16, 16, 16)
codes = np.unique(rng.integers(0, sizes, (500, 3)), axis=0)  # a catalog's are catalog.codes
spelling = Spelling(style="wrapped", codebook_sizes=sizes)
tokenizer = make_sid_tokenizer(spelling)
network = make_decoder(DecoderConfig(hidden_size=64, num_layers=2), len(tokenizer), rng).eval()
trie = Trie.from_codes(codes, sizes)
only_some = ItemFilter.from_lists(trie, 1, allow=[list(range(100))])
processor = SidLogitsProcessor(
    trie, SidTokens.from_tokenizer(tokenizer, spelling), tokenizer.eos_token_id, normalize="legal", allowed=only_some
)
prompt = tokenizer("<bos>" + spelling.write(codes[7]) + "<|sid_begin|>", return_tensors="pt")
torch.manual_seed(0)
written = network.generate(
    input_ids=prompt.input_ids, logits_processor=[processor], do_sample=True, num_return_sequences=5, max_new_tokens=5
)
items = {tuple(sid): row for row, sid in enumerate(codes.tolist())}
for text in tokenizer.batch_decode(written):
    print(text, "is item", items[spelling.read(text)[-1]])
