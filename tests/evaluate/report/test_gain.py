"""The model before RL is no rival of the one after it: what RL gained is told apart from the rank."""

import dataclasses
import re
from typing import Any

import pytest

from itemic.core.run import Run
from itemic.evaluate.report.artifacts import read_artifacts
from itemic.evaluate.report.focus import BEFORE_RL, standing
from itemic.evaluate.report.gain import rl_gain
from itemic.evaluate.report.sections.headline import describe_headline

ALL = {"itemic": 0.11, BEFORE_RL: 0.1, "SASRec": 0.08}


def made(scores: dict[str, float], **p_values: float) -> dict[str, Any]:
    """Metrics with these values and, for rivals with a p-value, the paired tests against itemic."""
    names = {"before": BEFORE_RL, "sasrec": "SASRec"}
    tests = [
        {"metric": "NDCG@10", "a": names[key], "b": "itemic", "p_value": p_value, "low": 0, "high": 0}
        | {"difference": scores[names[key]] - scores["itemic"]}
        for key, p_value in p_values.items()
    ]
    entries = {
        name: {"metrics": {label: {"value": value} for label in ("NDCG@10", "HR@10")}} for name, value in scores.items()
    }
    protocol = {"cutoffs": [10], "split": "test", "num_examples": 9}
    return {"recommenders": entries, "comparisons": tests, "protocol": protocol}


@pytest.mark.parametrize(
    ("scores", "p_values", "expected"),
    [
        (ALL, {"sasrec": 0.01}, ("good", "itemic ranks above every other recommender.")),
        (
            ALL,
            {"sasrec": 0.3},
            ("note", "itemic is level with SASRec, the best of the others: not a clear difference, p = "),
        ),
        (
            ALL,
            {},
            ("note", "itemic ranks first, but no paired test against SASRec was made: the difference may be chance."),
        ),
        (ALL | {"SASRec": 0.2}, {"sasrec": 0.01}, ("warning", "1 of 1 other recommenders rank above itemic: SASRec.")),
        (ALL | {BEFORE_RL: 0.2}, {"sasrec": 0.01}, ("good", "itemic ranks above every other recommender.")),
    ],
)
def test_only_a_clear_lead_is_good(
    whole_run: Run, scores: dict[str, float], p_values: dict[str, float], expected: tuple[str, str]
) -> None:
    metrics = made(scores, **p_values)
    artifacts, place = _of(whole_run, metrics), standing(metrics, 10, None)
    assert (place.rival, len(place.order)) == ("SASRec", 3)
    headline = describe_headline(artifacts, place, cutoff=10, title="")
    found = [finding for finding in headline.findings if re.search("recommenders|level with|ranks first", finding.text)]
    found += [finding for finding in headline.findings if "every other recommender" in finding.text]
    assert [finding.level for finding in found] == [expected[0]]
    assert found[0].text.startswith(expected[1])
    rank = next(fact.value for fact in headline.facts if fact.label.startswith("Rank"))
    assert rank == ("2 of 2" if scores["SASRec"] > scores["itemic"] else "1 of 2")
    assert BEFORE_RL not in headline.verdict


@pytest.mark.parametrize(
    ("before", "p_value", "level", "words"),
    [
        (0.1, 0.49, "note", "NDCG@10 +10.0% against the model before, not a clear difference, p = 0.490."),
        (0.1, 0.0001, "good", "NDCG@10 +10.0% against the model before, a clear difference, p < 0.001."),
        (0.2, 0.01, "warning", "NDCG@10 −45.0% against the model before, a clear difference, p = 0.010."),
    ],
)
def test_what_rl_gained_has_a_sentence_of_its_own(
    whole_run: Run, before: float, p_value: float, level: str, words: str
) -> None:
    metrics = made(ALL | {BEFORE_RL: before}, before=p_value)
    gain = rl_gain(metrics, 10)
    assert gain is not None
    assert gain.text == f"Reinforcement learning: {words}"
    headline = describe_headline(_of(whole_run, metrics), standing(metrics, 10, None), cutoff=10, title="")
    assert [finding.level for finding in headline.findings if finding.text == gain.text] == [level]
    del metrics["recommenders"][BEFORE_RL]
    assert rl_gain(metrics, 10) is None


def _of(run: Run, metrics: dict[str, Any]) -> Any:
    return dataclasses.replace(read_artifacts(run), metrics=metrics, rankings={}, dataset=None)
