"""BIGRec (Bao et al. 2023): a title is written freely, then grounded: items are ranked by their distance from it.

The paper's embedding of a text, a title or what was written, is the language model's own last state after it. Knows no
prompt text and no data.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError, DataError
from itemic.core.ranking import Histories, Recommendations, check_histories, top_k
from itemic.decode.policy import Policy
from itemic.decode.prefill import PrefixMemory, PromptBatch, check_numbers, check_prompts, in_batches
from itemic.decode.think import ThinkConfig, think
from itemic.language.thoughts import ThoughtTokens

__all__ = ["GroundedTitleRecommender", "grounded_scores", "last_states"]


class GroundedTitleRecommender:
    """Ranks the catalogue by how near each item's title is to the one that the model writes.

    See ``core.ranking.Recommender``. Every item with a title is scored, so lists are complete; those with one title
    tie. Deviations from the paper: a title is written greedily, where its authors search with a few beams, and states
    are the fine-tuned model's after its final norm.
    """

    def __init__(
        self,
        model: Policy,
        titles: Sequence[Sequence[int]],
        prompt: Callable[[Sequence[int]], Sequence[int]],
        *,
        start_id: int,
        end_id: int,
        popularity: Int[np.ndarray, "N"] | None = None,
        popularity_power: float = 0.0,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        name: str = "BIGRec",
    ) -> None:
        """Embeds the titles.

        Args:
            model: The language model, in evaluation mode.
            titles: Token ids of each item's title; items with none are never listed.
            prompt: From a history of item indices, oldest first, to the token ids after which a title begins.
            start_id: Token that stands before every text that is embedded, the beginning of a sequence say.
            end_id: Token that ends a title.
            popularity: Training interactions of every item; needed for a power above 0.
            popularity_power: γ of ``grounded_scores``.
            max_new_tokens: Longest title that is written.
            batch_size: Prompts written, and titles embedded, at once.
            name: Name in tables.

        Raises:
            ConfigError: if a setting cannot be honoured.
            DataError: if no item has a title.
        """
        check_numbers(batch_size=batch_size, max_new_tokens=max_new_tokens)
        if popularity_power < 0 or (popularity_power and popularity is None):
            raise ConfigError(f"popularity_power {popularity_power}: expected at least 0, and 0 without popularity")
        if not any(len(title) for title in titles):
            raise DataError(f"titles: none of the {len(titles)} items has one")
        self.name = name
        self._model = model
        self._prompt = prompt
        self._memory = PrefixMemory(model)
        self._start_id = start_id
        self._frame = ThoughtTokens(stop_ids=(end_id,), then_ids=())
        self._writing = ThinkConfig(max_new_tokens=max_new_tokens, temperature=0.0)
        self._batch_size = batch_size
        self._popularity = popularity
        self._popularity_power = popularity_power
        self._has_title = np.array([len(title) > 0 for title in titles], dtype=bool)
        number: dict[tuple[int, ...], int] = {}
        self._title_of_item = np.array([number.setdefault(tuple(title), len(number)) for title in titles])
        self._states = self._embed(list(number))

    @torch.no_grad()
    def write(self, histories: Histories) -> list[list[int]]:
        """Returns the token ids of the title that the model writes after each history, without its end.

        Raises:
            DataError: if an item index is not in the catalogue.
        """
        check_histories(histories, len(self._title_of_item))
        prompts = [self._prompt(history) for history in histories]
        if not prompts:
            return []
        check_prompts(prompts, self._model.vocabulary_size)
        self._memory.learn(prompts)

        def run(rows: Int[Tensor, "b"]) -> tuple[Tensor, ...]:
            batch: PromptBatch = self._memory.read([prompts[row] for row in rows.tolist()])
            written, _ = think(self._model, batch, self._frame, self._writing, rows)
            return written.tokens, written.length

        shared, steps = self._memory.num_shared(prompts), 1 + self._writing.max_new_tokens
        tokens, length = in_batches(
            prompts, self._batch_size, run, num_shared=shared, device=self._model.device, num_passes=steps
        )
        return [row[:size] for row, size in zip(tokens.tolist(), length.tolist(), strict=True)]

    def recommend(
        self, histories: Histories, k: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> Recommendations:
        """Returns the ``k`` items nearest to what the model writes after each history.

        Args:
            histories: B histories.
            k: Length of each list.
            exclude: For each history items that must not appear.
            allow: For each history the only items that may appear.

        Raises:
            DataError: if an item index is not in the catalogue or ``k`` is less than 1.
        """
        written = self.write(histories)
        states = self._embed(written) if written else self._states[:0]
        distance = torch.cdist(states, self._states, compute_mode="donot_use_mm_for_euclid_dist")
        distances = distance.cpu().numpy().astype(np.float64)[:, self._title_of_item]
        scores = grounded_scores(distances, self._popularity, self._popularity_power)
        return top_k(np.where(self._has_title, scores, -np.inf), k, exclude, allow)

    def _embed(self, texts: Sequence[Sequence[int]]) -> Float[Tensor, "n D"]:
        return last_states(self._model, [[self._start_id, *text] for text in texts], self._batch_size)


def grounded_scores(
    distances: Float[np.ndarray, "B N"], popularity: Int[np.ndarray, "N"] | None, power: float
) -> Float[np.ndarray, "B N"]:
    """Returns what items are ranked by: the negative distance, popular items drawn nearer.

    With γ above 0 it is -d / (1 + c)^γ, where the distances d of a row and the items' counts c are each brought to
    0..1 between their least and their largest (BIGRec's injection of popularity).

    Args:
        distances: L2 distance of each item from each text.
        popularity: Training interactions of every item; needed for a power above 0.
        power: γ, at least 0.
    """
    if not power:
        return -distances
    assert popularity is not None, "a power above 0 needs the counts"
    return -_to_unit(distances) / (1 + _to_unit(popularity[None].astype(np.float64))) ** power


@torch.no_grad()
def last_states(policy: Policy, texts: Sequence[Sequence[int]], batch_size: int) -> Float[Tensor, "n D"]:
    """Returns the model's state after the last token of each text, in float32 at least.

    Args:
        policy: The model, in evaluation mode.
        texts: Token ids, at least one a text.
        batch_size: Texts read at once, those of like length together.
    """
    order = np.argsort([len(text) for text in texts], kind="stable")
    parts = []
    for start in range(0, len(order), batch_size):
        some = [list(texts[place]) for place in order[start : start + batch_size]]
        width = len(some[-1])
        ids = torch.tensor([[*text, *[text[-1]] * (width - len(text))] for text in some], device=policy.device)
        mask = torch.ones(len(some), 1, width, width, dtype=torch.bool, device=policy.device).tril()
        hidden, _ = policy.hidden(ids, mask, torch.arange(width, device=policy.device).expand_as(ids))
        last = torch.tensor([len(text) - 1 for text in some], device=policy.device)
        states = hidden[torch.arange(len(some), device=policy.device), last]
        parts.append(states if states.dtype == torch.float64 else states.float())
    back = torch.from_numpy(np.argsort(order, kind="stable")).to(policy.device)
    return torch.cat(parts)[back] if parts else torch.zeros(0, 1, device=policy.device)


def _to_unit(values: Float[np.ndarray, "B N"]) -> Float[np.ndarray, "B N"]:
    least, largest = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    return np.asarray((values - least) / np.maximum(largest - least, np.finfo(np.float64).tiny))
