import torch

from itemic.decode import scoring
from itemic.decode.scoring import VocabularyNormalizer, legal_normalizer, widen


def test_legal_normalizer_leaves_out_what_is_no_child() -> None:
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [3.0, 7.0, 9.0]]))
    is_child = torch.tensor([[True, True, False], [False, False, True]])
    torch.testing.assert_close(legal_normalizer(logits, is_child).exp(), torch.tensor([3.0, 9.0]))


def test_tiles_sum_to_the_whole_vocabulary(fake_policy, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "_TILE_COLUMNS", 300)
    policy = fake_policy((300, 500))
    hidden = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected, logits, widths = policy.logits(hidden).logsumexp(-1), policy.logits, []

    def recorded(hidden, token_ids):
        widths.append(token_ids.stop - token_ids.start)
        return logits(hidden, token_ids)

    monkeypatch.setattr(policy, "logits", recorded)
    normalizer = VocabularyNormalizer(policy)
    torch.testing.assert_close(normalizer(hidden), expected)
    assert widths == [300, 300, 220], "no call makes whole rows, the first no more than others"
    assert normalizer(hidden[:0]).shape == (0, 3)


def test_half_precision_is_widened_and_double_kept() -> None:
    assert widen(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert widen(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
