"""The slow twin of the beam search, for tests and benchmarks: plain Python, no trie, no cache, one row a beam.

It states what the fast search must return. Knows nothing of how the fast one works.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.decode.policy import Policy
from itemic.decode.walk import Normalization

__all__ = ["naive_beam_search", "score_catalog"]

Sid = tuple[int, ...]


def naive_beam_search(
    policy: Policy,
    prompt: Sequence[int],
    sids: Collection[Sid],
    num_beams: int,
    normalize: Normalization,
    allowed: Collection[Sid] | None = None,
) -> list[tuple[Sid, float]]:
    """Returns the best SIDs with their log-probabilities, best first; ties are listed by SID.

    Every beam is a row that reads the whole prompt again.

    Args:
        policy: The model.
        prompt: Token ids.
        sids: The catalogue: what may continue a prefix, and what ``legal`` normalises over.
        num_beams: Number of prefixes kept at each level.
        normalize: ``legal`` or ``full``.
        allowed: The SIDs that may be returned; all where None.
    """
    open_sids = set(sids if allowed is None else allowed)
    beams: list[tuple[Sid, float]] = [((), 0.0)]
    for level in range(policy.sid_tokens.spelling.num_levels):
        open_prefixes = {sid[: level + 1] for sid in open_sids}
        rows = _logprobs(policy, prompt, [prefix for prefix, _ in beams], sids, normalize)
        candidates = [
            ((*prefix, code), score + row[code])
            for (prefix, score), row in zip(beams, rows, strict=True)
            for code in range(len(row))
            if (*prefix, code) in open_prefixes
        ]
        beams = sorted(candidates, key=lambda beam: (-beam[1], beam[0]))[:num_beams]
    return beams


def score_catalog(
    policy: Policy, prompt: Sequence[int], sids: Sequence[Sid], normalize: Normalization
) -> Float[np.ndarray, "N"]:
    """Returns the log-probability of every SID, each scored on its own: exhaustive search without any beam."""
    score = np.zeros(len(sids))
    for level in range(policy.sid_tokens.spelling.num_levels):
        rows = _logprobs(policy, prompt, [sid[:level] for sid in sids], sids, normalize)
        score += [row[sid[level]] for sid, row in zip(sids, rows, strict=True)]
    return score


def _logprobs(
    policy: Policy, prompt: Sequence[int], prefixes: Sequence[Sid], sids: Collection[Sid], normalize: Normalization
) -> list[list[float]]:
    """Returns for each prefix (all of one length) the log-probability of every next code; -inf where illegal."""
    if not prefixes:
        return []
    level_ids = policy.sid_tokens.level_ids
    level = len(prefixes[0])
    tokens = [[*prompt, *(int(level_ids[i][code]) for i, code in enumerate(prefix))] for prefix in prefixes]
    logits = policy.logits(_last_hidden(policy, torch.tensor(tokens, device=policy.device)))
    code_logits = logits[:, torch.from_numpy(level_ids[level])].double()
    legal = {sid[: level + 1] for sid in sids}
    is_legal = torch.tensor(
        [[(*prefix, code) in legal for code in range(len(level_ids[level]))] for prefix in prefixes]
    )
    illegal = ~is_legal.to(logits.device)
    if normalize == "legal":
        logprobs = code_logits.masked_fill(illegal, -torch.inf).log_softmax(dim=-1)
    else:
        logprobs = (code_logits - logits.double().logsumexp(dim=-1, keepdim=True)).masked_fill(illegal, -torch.inf)
    rows: list[list[float]] = logprobs.tolist()
    return rows


@torch.no_grad()
def _last_hidden(policy: Policy, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    B, T = input_ids.shape
    causal = torch.ones(T, T, dtype=torch.bool, device=input_ids.device).tril().expand(B, 1, T, T)
    positions = torch.arange(T, device=input_ids.device).expand(B, T)
    hidden, _ = policy.hidden(input_ids, causal, positions)
    return hidden[:, -1]
