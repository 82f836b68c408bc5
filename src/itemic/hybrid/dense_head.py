"""A dense head on a frozen language model: its state after the prompt, mapped into the space of the items' texts.

    score(item | history) = h(history) . W . v(item),  W by softmax cross-entropy over the catalogue

As LIGER (Yang et al., 2024) and COBRA (Yang et al., 2025) argue, dense item vectors tell items apart that semantic IDs
put together, and reach items that were never trained on. Deviations: the language model stays as it is, and items have
no vector beside their text's, so that nothing here prefers what is popular.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn.functional import cross_entropy

from itemic.baselines.stored import read_fitted, write_fitted
from itemic.core.errors import ArtifactError, DataError
from itemic.core.ranking import Histories
from itemic.decode.recommender import LanguageModelRecommender

__all__ = ["DenseHead", "fit_head"]

_NUM_EPOCHS = 10
_BATCH_SIZE = 256
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-2


class DenseHead:
    """Member ``dense-head`` of a blend."""

    name = "dense-head"
    is_logprob = False

    def __init__(
        self,
        model: LanguageModelRecommender,
        head: Float[np.ndarray, "D E"],
        vectors: Float[np.ndarray, "N E"],
        scale: Float[np.ndarray, "D"],
    ) -> None:
        """Takes the model, the map W, the items' unit vectors and what states are divided by."""
        self.head, self.vectors, self.scale = head, vectors, scale
        self.num_parameters = head.size
        """Of the map alone: the model is another's, and what states are divided by is measured."""
        self._model = model

    @classmethod
    def fit(
        cls,
        model: LanguageModelRecommender,
        histories: Histories,
        target: Int[np.ndarray, "B"],
        vectors: Float[np.ndarray, "N E"],
        rng: np.random.Generator,
    ) -> "DenseHead":
        """Returns the head fitted to training examples.

        Args:
            model: Gives the states.
            histories: Of the training examples.
            target: Their next items.
            vectors: Text vectors of the items.
            rng: Draws the batches.

        Raises:
            DataError: if there is no example.
        """
        if not len(target):
            raise DataError("the dataset has no training examples to fit a dense head to")
        states = model.prompt_states(histories)
        scale = np.maximum(states.std(axis=0), 1e-6).astype(np.float32) * np.float32(np.sqrt(states.shape[1]))
        unit = _unit(vectors)
        return cls(model, fit_head(states / scale, target, unit, rng), unit, scale)

    def score(self, histories: Histories) -> Float[np.ndarray, "B N"]:
        """Returns the log-odds of every item."""
        if not len(histories):
            return np.zeros((0, len(self.vectors)), dtype=np.float32)
        scores: np.ndarray = (self._model.prompt_states(histories) / self.scale) @ self.head @ self.vectors.T
        return scores

    def save(self, path: Path, made_from: str) -> None:
        """Writes the head as safetensors, atomically; the model and the texts have files of their own.

        Args:
            path: The file.
            made_from: What it was fitted to, a hash of the model, the examples and the texts say.
        """
        write_fitted(path, {"head": self.head, "scale": self.scale}, {}, made_from)

    @classmethod
    def load(
        cls, path: Path, made_from: str, model: LanguageModelRecommender, vectors: Float[np.ndarray, "N E"]
    ) -> "DenseHead":
        """Returns the head in a file that ``save`` wrote.

        Args:
            path: The file.
            made_from: What it must be fitted to.
            model: Gives the states.
            vectors: Text vectors of the items.

        Raises:
            ArtifactError: if the file is missing, damaged or made from something else.
        """
        arrays, _ = read_fitted(path, made_from)
        try:
            return cls(model, arrays["head"], _unit(vectors), arrays["scale"])
        except KeyError as error:
            raise ArtifactError(f"{path}: damaged ({error}); run itemic blend again") from None


def fit_head(
    states: Float[np.ndarray, "B D"],
    target: Int[np.ndarray, "B"],
    vectors: Float[np.ndarray, "N E"],
    rng: np.random.Generator,
    num_epochs: int = _NUM_EPOCHS,
) -> Float[np.ndarray, "D E"]:
    """Returns W, temperature included, after AdamW on the softmax cross-entropy of the targets over all items."""
    inputs, items, wanted = (torch.from_numpy(np.array(each)) for each in (states, vectors, target))
    head = torch.zeros(states.shape[1], vectors.shape[1], requires_grad=True)
    log_temperature = torch.tensor(float(np.log(20.0)), requires_grad=True)
    optimizer = torch.optim.AdamW([head, log_temperature], lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    for _ in range(num_epochs):
        order = torch.from_numpy(rng.permutation(len(target)))
        for rows in torch.split(order, _BATCH_SIZE):
            scores = log_temperature.exp() * (inputs[rows] @ head) @ items.T
            loss = cross_entropy(scores, wanted[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    fitted: np.ndarray = (log_temperature.exp() * head).detach().numpy()
    return fitted


def _unit(vectors: Float[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
    """Returns unit vectors around the mean, which all texts of a catalogue share and which tells none apart."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(lengths > 0, lengths, 1), dtype=np.float32)
