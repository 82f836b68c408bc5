import numpy as np
import torch

from itemic.language.spelling import Spelling
from itemic.model.backbone import DecoderConfig, make_decoder, make_sid_tokenizer
from itemic.model.sid_model import SidModel


def test_first(tmp_path):
    s = Spelling(style="wrapped", codebook_sizes=(4, 4))
    tok = make_sid_tokenizer(s)
    net = make_decoder(
        DecoderConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32),
        len(tok),
        np.random.default_rng(0),
    )
    m = SidModel(net, tok, s, prompt_mode="sid-only", prompt_version="1", catalog_version="x")
    ids = torch.tensor([[1, 3, 4]])
    pos = torch.arange(3)[None]
    mask = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    h1, _ = m.hidden(ids, mask, pos)
    h2, _ = m.hidden(ids, mask, pos)
    assert not torch.equal(h1, h2)
    net.eval()
    h, c = m.hidden(ids, mask, pos, use_cache=True)
    m.save(tmp_path / "model")
    m2 = SidModel.load(tmp_path / "model")
    h3, _ = m2.hidden(ids, mask, pos)
    assert torch.equal(h, h3)
    _h4, c = m.hidden(ids[:, :1], mask[:, :, :1, :1], pos[:, :1], None, True)
    h5, c = m.hidden(ids[:, 1:], mask[:, :, 1:], pos[:, 1:], c)
    torch.testing.assert_close(h5, h[:, 1:])
    torch.testing.assert_close(m.logits(h, torch.tensor([3, 1])), net(ids).logits[..., [3, 1]])
