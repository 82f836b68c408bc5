"""The scaling law L(N, D) = E + A / N^alpha + B / D^beta: fitting it, how sure the fit is, what it says to do.

Pure functions of arrays: N parameters, D training tokens, L validation loss in nats a token. Knows no run.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import logsumexp

from itemic.core.errors import DataError

__all__ = ["HUBER_DELTA", "Interval", "ScalingFit", "ScalingLaw", "bootstrap_law", "doubts", "fit_law", "intervals"]

HUBER_DELTA = 1e-3
"""Log-losses that miss by less count by their square, others by their size: Hoffmann et al.'s figure."""

_MAX_EXPONENT = 3.0
_LEAST_LOG = -30.0
_NUM_PARAMETERS = 5
_START_EXPONENTS = (0.15, 0.4, 1.0)
_START_SHARES = ((0.8, 0.1, 0.1), (0.1, 0.45, 0.45), (0.3, 0.6, 0.1), (0.3, 0.1, 0.6))
_NUM_BOOTSTRAP_STARTS = 2
_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """L(N, D) = e + a / N^alpha + b / D^beta."""

    e: float
    """Loss that neither parameters nor data remove."""
    a: float
    alpha: float
    b: float
    beta: float

    def loss(self, num_parameters: Float[np.ndarray, "*s"], num_tokens: Float[np.ndarray, "*s"]) -> np.ndarray:
        """Returns the loss of each model on its data."""
        found: np.ndarray = self.e + self.a / num_parameters**self.alpha + self.b / num_tokens**self.beta
        return found

    @property
    def parameter_exponent(self) -> float:
        """How the best N grows with compute: beta / (alpha + beta)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def data_exponent(self) -> float:
        """How the best D grows with compute: alpha / (alpha + beta)."""
        return self.alpha / (self.alpha + self.beta)

    def optimum(self, compute: Float[np.ndarray, "*s"]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the N and D of the lowest loss that some compute pays for.

        With C = 6 N D:  N = G (C / 6)^(beta / (alpha + beta)),  D = C / (6 N),
        G = (alpha A / (beta B))^(1 / (alpha + beta)).  Hoffmann et al., Training compute-optimal large language
        models, 2022, approach 3.

        Args:
            compute: Floating-point operations.
        """
        scale = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        num_parameters = scale * (compute / 6) ** self.parameter_exponent
        return num_parameters, compute / 6 / num_parameters


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Ends of a bootstrap interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ScalingFit:
    """A law and how well it fits."""

    law: ScalingLaw
    objective: float
    """Sum of the Huber losses of the log-losses."""
    error: float
    """Root mean square of log L - log L(N, D): about the relative error of a loss."""


def fit_law(
    num_parameters: Float[np.ndarray, "R"], num_tokens: Float[np.ndarray, "R"], loss: Float[np.ndarray, "R"]
) -> ScalingFit:
    """Returns the law that fits some runs best: the Huber loss of log L, L-BFGS from 36 starts.

        min over (E, A, alpha, B, beta) of sum Huber(log(E + A / N^alpha + B / D^beta) - log L)

    Deviation from Hoffmann et al.: N and D are measured in their geometric means while fitting, which changes nothing
    but lets few starts do.

    Args:
        num_parameters: N of each run.
        num_tokens: D of each run.
        loss: L of each run.

    Raises:
        DataError: for fewer than five runs, fewer than two sizes or amounts of data, or figures that are not positive.
    """
    points = _Points.of(num_parameters, num_tokens, loss)
    starts = [
        np.array([*np.log(np.array(shares) * loss.mean()), alpha, beta])
        for alpha in _START_EXPONENTS
        for beta in _START_EXPONENTS
        for shares in _START_SHARES
    ]
    return points.best(starts)


def bootstrap_law(
    num_parameters: Float[np.ndarray, "R"],
    num_tokens: Float[np.ndarray, "R"],
    loss: Float[np.ndarray, "R"],
    fit: ScalingFit,
    *,
    num_resamples: int,
    rng: np.random.Generator,
) -> list[ScalingLaw]:
    """Returns the laws of resamples of the runs, drawn with replacement.

    A resample that could not be fitted (fewer than five different runs, two sizes, two amounts of data) is drawn again.

    Args:
        num_parameters: N of each run.
        num_tokens: D of each run.
        loss: L of each run.
        fit: Of all runs: where the search starts.
        num_resamples: Number of resamples.
        rng: Draws them.

    Raises:
        DataError: if there are fewer than six runs, or a hundred draws in a row could not be fitted.
    """
    if len(loss) <= _NUM_PARAMETERS:
        # A resample of five runs can only be fitted where it has each of them once: the interval would be a point.
        raise DataError(
            f"scaling law: intervals need at least {_NUM_PARAMETERS + 1} runs to draw from, found {len(loss)}"
        )
    centre = np.log(num_parameters).mean(), np.log(num_tokens).mean()
    start = _to_vector(fit.law, *centre)
    laws = []
    for _ in range(num_resamples):
        rows = _draw(num_parameters, num_tokens, rng)
        points = _Points(num_parameters[rows], num_tokens[rows], loss[rows], *centre)
        starts = [start, *(start + rng.normal(0, 0.3, _NUM_PARAMETERS) for _ in range(_NUM_BOOTSTRAP_STARTS - 1))]
        laws.append(points.best(starts).law)
    return laws


def intervals(laws: Sequence[ScalingLaw], confidence: float) -> dict[str, Interval]:
    """Returns the percentile interval of every figure of a law, its two exponents of the frontier included."""
    names = [*(field.name for field in fields(ScalingLaw)), "parameter_exponent", "data_exponent"]
    found = {}
    for name in names:
        low, high = np.quantile([getattr(law, name) for law in laws], [(1 - confidence) / 2, (1 + confidence) / 2])
        found[name] = Interval(low=float(low), high=float(high))
    return found


def doubts(
    num_parameters: Float[np.ndarray, "R"],
    num_tokens: Float[np.ndarray, "R"],
    loss: Float[np.ndarray, "R"],
    fit: ScalingFit,
    found: dict[str, Interval],
) -> list[str]:
    """Returns in words where the fit says less than it seems to; empty where the grid carries it.

    Args:
        num_parameters: N of each run.
        num_tokens: D of each run.
        loss: L of each run.
        fit: Of all runs.
        found: Intervals by name.
    """
    words = []
    for values, name in ((num_parameters, "sizes"), (num_tokens, "amounts of data")):
        num_distinct, span = len(np.unique(values)), float(values.max() / values.min())
        if num_distinct < 3:
            words.append(f"{num_distinct} {name}: a power law and its floor need at least three.")
        if span < 10:
            words.append(f"The {name} span a factor of {span:.1f}: less than 10 says little about an exponent.")
    floor = found["e"]
    if floor.low < 0.1 * loss.min() and floor.high > 0.5 * loss.min():
        words.append(
            f"E is not identified: its interval, {floor.low:.3g} to {floor.high:.3g}, reaches from nearly nothing to "
            f"more than half of the lowest loss {loss.min():.3g}."
        )
    for name, symbol in (("alpha", "α"), ("beta", "β")):
        interval = found[name]
        if interval.high > 3 * max(interval.low, 1e-9) or interval.high >= _MAX_EXPONENT * 0.999:
            words.append(
                f"{symbol} is not identified: its interval is {interval.low:.3g} to {interval.high:.3g}, so neither is "
                "the frontier beyond the grid."
            )
    terms = {
        "parameters": fit.law.a / num_parameters**fit.law.alpha,
        "data": fit.law.b / num_tokens**fit.law.beta,
    }
    for name, term in terms.items():
        if np.ptp(term) < 2 * fit.error * loss.mean():
            words.append(f"In this grid {name} move the loss by less than the fit misses it.")
    return words


class _Points:
    """Runs to be fitted, N and D in units of their geometric means; parameters are (log E, log A', log B', a, b)."""

    def __init__(
        self, num_parameters: np.ndarray, num_tokens: np.ndarray, loss: np.ndarray, log_n: float, log_d: float
    ) -> None:
        self.n, self.d = np.log(num_parameters) - log_n, np.log(num_tokens) - log_d
        self.log_loss, self.log_n, self.log_d = np.log(loss), log_n, log_d

    @classmethod
    def of(cls, num_parameters: np.ndarray, num_tokens: np.ndarray, loss: np.ndarray) -> "_Points":
        for name, values in (("parameters", num_parameters), ("tokens", num_tokens), ("losses", loss)):
            if not (np.isfinite(values) & (values > 0)).all():
                raise DataError(f"scaling law: expected {name} above 0, found {values.min()}")
        if not _can_fit(num_parameters, num_tokens, np.arange(len(loss))):
            raise DataError(
                f"scaling law: expected at least {_NUM_PARAMETERS} runs of two sizes and two amounts of data, found "
                f"{len(loss)} of {len(np.unique(num_parameters))} and {len(np.unique(num_tokens))}"
            )
        return cls(num_parameters, num_tokens, loss, np.log(num_parameters).mean(), np.log(num_tokens).mean())

    def best(self, starts: Sequence[np.ndarray]) -> ScalingFit:
        bounds: Any = [(_LEAST_LOG, None)] * 3 + [(1e-4, _MAX_EXPONENT)] * 2
        found = []
        for start in starts:
            options: Any = {"maxiter": 2000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-10, "maxcor": 20}
            found.append(minimize(self._objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options))
        result = min(found, key=lambda one: float(one.fun))
        residual = self._terms(result.x)[0] - self.log_loss
        law = _from_vector(result.x, self.log_n, self.log_d)
        error = float(np.sqrt(np.mean(residual**2)))
        return ScalingFit(law=law, objective=float(result.fun) * HUBER_DELTA**2, error=error)

    def _terms(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the predicted log-loss, and each term's share of the loss."""
        terms = np.stack([np.full_like(self.n, x[0]), x[1] - x[3] * self.n, x[2] - x[4] * self.d])
        predicted = logsumexp(terms, axis=0)
        return predicted, np.exp(terms - predicted)

    def _objective(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Returns the sum of Huber losses in units of delta squared, so that its tolerances suit, and the gradient."""
        predicted, shares = self._terms(x)
        residual = (predicted - self.log_loss) / HUBER_DELTA
        is_small = abs(residual) <= 1
        value = np.where(is_small, 0.5 * residual**2, abs(residual) - 0.5).sum()
        slope = np.clip(residual, -1, 1) / HUBER_DELTA
        by_term = shares * slope
        gradient = np.array([*by_term.sum(axis=1), -(by_term[1] * self.n).sum(), -(by_term[2] * self.d).sum()])
        return float(value), gradient


def _from_vector(x: np.ndarray, log_n: float, log_d: float) -> ScalingLaw:
    e, a, b = np.exp([x[0], x[1] + x[3] * log_n, x[2] + x[4] * log_d]).tolist()
    return ScalingLaw(e=e, a=a, alpha=float(x[3]), b=b, beta=float(x[4]))


def _to_vector(law: ScalingLaw, log_n: float, log_d: float) -> np.ndarray:
    e, a, alpha, b, beta = astuple(law)
    return np.array([np.log(e), np.log(a) - alpha * log_n, np.log(b) - beta * log_d, alpha, beta])


def _draw(num_parameters: np.ndarray, num_tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for _ in range(_TRIES):
        rows = rng.integers(0, len(num_tokens), len(num_tokens))
        if _can_fit(num_parameters, num_tokens, rows):
            return rows
    raise DataError(
        f"scaling law: none of {_TRIES} resamples of the {len(num_tokens)} runs has {_NUM_PARAMETERS} different ones "
        "of two sizes and two amounts of data; intervals need more runs"
    )


def _can_fit(num_parameters: np.ndarray, num_tokens: np.ndarray, rows: np.ndarray) -> bool:
    num_sizes, num_amounts = (len(np.unique(values[rows])) for values in (num_parameters, num_tokens))
    return len(np.unique(rows)) >= _NUM_PARAMETERS and num_sizes >= 2 and num_amounts >= 2
