"""Words, tables and charts of a scaling study; trains and fits nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from itemic.core.page.formats import write_duration, write_metric, write_number, write_percent, write_quantity
from itemic.core.page.page import Fact
from itemic.evaluate.report.figures import Figure, Spec, Table, View
from itemic.studies.page import Finding, Section, StudyPage
from itemic.studies.scaling_law import Interval, ScalingFit, ScalingLaw

if TYPE_CHECKING:
    from itemic.studies.scaling import ScalingConfig

__all__ = ["ScalingPoint", "arrays", "describe_scaling"]

_NUM_COLOURS = 8
_SYMBOLS = {
    "e": "E",
    "a": "A",
    "alpha": "α",
    "b": "B",
    "beta": "β",
    "parameter_exponent": "β / (α + β)",
    "data_exponent": "α / (α + β)",
}
_MEANINGS = {
    "e": "loss that neither removes",
    "a": "weight of the parameters",
    "alpha": "how fast parameters help",
    "b": "weight of the data",
    "beta": "how fast data helps",
    "parameter_exponent": "best N grows as this power of compute",
    "data_exponent": "best D grows as this power of compute",
}


@dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    """One training of the grid."""

    size: str
    share: float
    seed: int
    num_parameters: int
    """N, as the study counts it."""
    num_tokens: int
    """D, as the study counts it."""
    loss: float
    """Lowest validation loss, nats a token."""
    ndcg: float | None
    """NDCG@10 on valid; None where the recipe does not evaluate that cut-off."""
    figures: Mapping[str, Any]
    """N and D counted either way, and the rest."""
    wall_time_s: float

    @property
    def compute(self) -> float:
        """Floating-point operations of the training: 6 N D."""
        return 6.0 * self.num_parameters * self.num_tokens


def arrays(points: Sequence[ScalingPoint]) -> tuple[Float[np.ndarray, "R"], ...]:
    """Returns N, D and L of the points."""
    names = ("num_parameters", "num_tokens", "loss")
    return tuple(np.array([getattr(point, name) for point in points], dtype=np.float64) for name in names)


def describe_scaling(
    config: "ScalingConfig",
    points: Sequence[ScalingPoint],
    fit: ScalingFit,
    laws: Sequence[ScalingLaw],
    found: Mapping[str, Interval],
    words: Sequence[str],
    failed: Sequence[str],
    wall_time_s: float,
) -> StudyPage:
    """Returns the page of a study.

    Args:
        config: What was asked for.
        points: The trainings that succeeded.
        fit: The law.
        laws: Those of resamples.
        found: Their intervals.
        words: What the fit does not say.
        failed: Trainings that failed, with their errors.
        wall_time_s: Of all trainings together.
    """
    law = fit.law
    warnings = [*failed, *words, *([] if len(config.seeds) > 1 else [_ONE_SEED])]
    return StudyPage(
        title=f"{config.recipe.stem}: loss by parameters and data",
        kind="Scaling law",
        verdict=(
            f"L = {law.e:.4g} + {law.a:.4g} / N^{law.alpha:.3f} + {law.b:.4g} / D^{law.beta:.3f}; the best N grows as "
            f"C^{law.parameter_exponent:.2f}, the best D as C^{law.data_exponent:.2f}."
            + (" The grid does not carry all of this: see the warnings." if words else "")
        ),
        facts=(
            Fact(
                label="Trainings",
                value=str(len(points)),
                note=f"{len(config.sizes)} sizes, {len(config.shares)} shares",
            ),
            Fact(label="Error of the fit", value=write_percent(fit.error, 2), note="root mean square, relative"),
            Fact(label="Time of all trainings", value=write_duration(wall_time_s)),
        ),
        findings=tuple(Finding(level="warning", text=text) for text in warnings),
        sections=(
            Section(
                key="law", title="The law", lead=_law_words(config), table=_law_table(law, found, config.confidence)
            ),
            Section(
                key="curves",
                title="Loss by parameters",
                lead="Points are trainings, lines the law at the same amount of data.",
                figures=(_curves(points, law),),
            ),
            Section(
                key="frontier",
                title="Compute-optimal frontier",
                lead=_frontier_words(points),
                figures=(_frontier(points, law, laws, config.confidence),),
            ),
            Section(
                key="trainings", title="Trainings", lead="L is in nats a token, C = 6ND.", table=_trainings(points, law)
            ),
        ),
    )


_ONE_SEED = "One seed a cell: the noise of a single training is in the points and not told apart from the law's error."


def _law_words(config: "ScalingConfig") -> str:
    parameters = {"non-embedding": "parameters without the rows of the vocabulary", "total": "all parameters"}
    tokens = {
        "seen": "tokens trained on up to the lowest loss, each epoch anew",
        "unique": "tokens of the sequences, once each",
    }
    return (
        f"N counts {parameters[config.parameters]}, D {tokens[config.tokens]}. Huber loss of the log-loss (δ = 0.001), "
        f"L-BFGS from 36 starts; intervals ({config.confidence:.0%}) resample the trainings {config.num_bootstrap} "
        "times. With few trainings they are too narrow rather than too wide."
    )


def _law_table(law: ScalingLaw, found: Mapping[str, Interval], confidence: float) -> Table:
    rows = tuple(
        (
            symbol,
            write_number(getattr(law, name)),
            write_number(found[name].low),
            write_number(found[name].high),
            _MEANINGS[name],
        )
        for name, symbol in _SYMBOLS.items()
    )
    return Table(columns=("Figure", "fitted", f"low ({confidence:.0%})", "high", "meaning"), rows=rows)


def _trainings(points: Sequence[ScalingPoint], law: ScalingLaw) -> Table:
    n, d, _ = arrays(points)
    rows = tuple(
        (
            f"{point.size}, {point.share:g}, seed {point.seed}",
            write_quantity(point.figures["non-embedding"]),
            write_quantity(point.figures["total"]),
            write_quantity(point.figures["unique"]),
            write_quantity(point.figures["seen"]),
            write_percent(point.figures["best_step"] / point.figures["num_steps"], 0),
            f"{point.compute:.2e}",
            write_metric(point.loss),
            write_metric(float(expected)),
            write_metric(point.ndcg),
            write_duration(point.wall_time_s),
        )
        for point, expected in zip(points, law.loss(n, d), strict=True)
    )
    columns = ("Size, share", "N non-embedding", "N total", "D unique", "D seen", "of the steps", "C")
    return Table(columns=(*columns, "L", "L of the law", "NDCG@10", "time"), rows=rows)


def _curves(points: Sequence[ScalingPoint], law: ScalingLaw) -> Figure:
    n, _, _ = arrays(points)
    grid = np.geomspace(n.min() / 1.5, n.max() * 1.5, 60)
    data = []
    for place, share in enumerate(sorted({point.share for point in points})):
        sizes, amounts, losses = arrays([point for point in points if point.share == share])
        tokens = float(np.exp(np.log(amounts).mean()))
        colour = f"var(--series-{place % _NUM_COLOURS + 1})"
        name = f"D {write_quantity(round(tokens))}"
        curve = law.loss(grid, np.full_like(grid, tokens))
        data += [
            _trace(name, sizes.tolist(), losses.tolist(), colour, "markers"),
            {**_trace(f"{name}, law", grid.tolist(), curve.tolist(), colour, "lines"), "showlegend": False},
        ]
    spec = {"data": data, "layout": _axes("parameters N", "validation loss, nats a token")}
    caption = "Both axes are logarithmic."
    return Figure(
        key="loss", title="Loss by N and D", caption=caption, views=(View(label="", spec=spec),), height_px=440
    )


def _frontier_words(points: Sequence[ScalingPoint]) -> str:
    best = sorted(points, key=lambda point: point.compute)[-1]
    return (
        "The best N and D for some compute by the law, within the grid and ten times beyond; dotted lines are the "
        f"ends of the resamples' intervals. The dearest training took C = {best.compute:.1e}."
    )


def _frontier(points: Sequence[ScalingPoint], law: ScalingLaw, laws: Sequence[ScalingLaw], confidence: float) -> Figure:
    compute = np.array([point.compute for point in points])
    sizes, amounts, _ = arrays(points)
    grid = np.geomspace(compute.min(), compute.max() * 10, 40)
    best = dict(zip(("N", "D"), law.optimum(grid), strict=True))
    resampled = np.stack([np.stack(one.optimum(grid)) for one in laws])
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    data: list[Spec] = []
    for place, (name, values) in enumerate(best.items()):
        colour = f"var(--series-{place + 1})"
        for ends in (low[place], high[place]):
            edge = _trace(f"{name}, interval", grid.tolist(), ends.tolist(), colour, "lines")
            data.append({**edge, "line": {"color": colour, "width": 1, "dash": "dot"}, "showlegend": False})
        data.append(_trace(f"best {name}", grid.tolist(), values.tolist(), colour, "lines"))
    for place, (name, own) in enumerate((("N", sizes), ("D", amounts))):
        colour = f"var(--series-{place + 1})"
        data.append(_trace(f"{name} of the trainings", compute.tolist(), own.tolist(), colour, "markers"))
    spec = {"data": data, "layout": _axes("compute C = 6ND", "parameters N, tokens D")}
    return Figure(
        key="optimum",
        title="Best N and D by compute",
        caption="Dotted lines are the ends of the intervals. Both axes are logarithmic.",
        views=(View(label="", spec=spec),),
        height_px=420,
    )


def _trace(name: str, x: Sequence[float], y: Sequence[float], colour: str, mode: str) -> Spec:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 9},
        "hovertemplate": "%{x:.3s}, %{y:.4g}<extra>%{fullData.name}</extra>",
    }


def _axes(x_title: str, y_title: str) -> Spec:
    return {
        "xaxis": {"title": {"text": x_title}, "type": "log", "automargin": True},
        "yaxis": {"title": {"text": y_title}, "type": "log", "automargin": True},
        "hovermode": "closest",
    }
