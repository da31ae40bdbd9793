"""What a judge's reply says, and what a template shows it."""

from typing import Any

import pydantic
import pytest

from gym_ray.verifiers.judge_scores import ScoreForm
from gym_ray.verifiers.templates import fill, names_in

PREFERENCE = {"[[A]]": 1.0, "[[B]]": 0.0, "[[C]]": 0.5}


@pytest.mark.parametrize(
    ("form", "reply", "score"),
    [
        ({"high": 10}, "Fine. Rating: [[7]]", 0.7),
        ({"low": 1, "high": 5}, "[[1]] would be harsh; [[ 4.0 ]]", 0.75),
        ({"low": -1, "high": 1}, "[[-0.5]]", 0.25),
        ({"high": 10}, "[[11]]", None),
        ({"high": 10}, "7", None),
        ({"high": 10}, "", None),
        ({"form": "regex", "pattern": r"Score: (\d+)", "high": 100}, "Score: 5 Score: 80", 0.8),
        ({"form": "regex", "pattern": r"Score: (\w+)", "high": 100}, "Score: high", None),
        ({"form": "regex", "pattern": r"is (\w+)\.", "labels": {"good": 1}}, "It is good.", 1.0),
        ({"form": "json", "high": 1}, 'x {"score": 0.25, "why": {"a": "}"}} y', 0.25),
        ({"form": "json", "high": 1}, '{"score": 1} {"other": 2}', 1.0),
        ({"form": "json", "high": 1}, '{"score": true}', None),
        ({"form": "json", "high": 1}, '{"score": "0.5"}', 0.5),
        ({"form": "json", "high": 1}, '{"score": 0.5', None),
        ({"form": "json", "field": "v", "labels": {"yes": 1, "no": 0}}, '{"v": "no"}', 0.0),
        ({"form": "labels", "labels": PREFERENCE}, "[[A]] at first, but [[B]]", 0.0),
        ({"form": "labels", "labels": PREFERENCE}, "A", None),
        ({"form": "labels", "labels": {"correct": 1, "incorrect": 0}}, "it is incorrect", 0.0),
        ({"form": "labels", "labels": {"A": 1, "A or B": 0.5}}, "A or B", 0.5),
    ],
)
def test_the_score_of_a_reply(form: dict[str, Any], reply: str, score: float | None) -> None:
    assert ScoreForm.model_validate(form).read(reply) == (
        None if score is None else pytest.approx(score)
    )


def test_a_flood_of_braces_is_read_in_no_time_as_nothing() -> None:
    assert ScoreForm(form="json").read("{" * 200_000) is None
    assert ScoreForm(form="json").read('{"score":' * 100_000) is None


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"low": 5, "high": 5}, "must be less than high"),
        ({"form": "regex"}, "needs a pattern"),
        ({"pattern": "(x)"}, "only it has one"),
        ({"form": "regex", "pattern": "x"}, "needs a group"),
        ({"form": "labels"}, "needs labels"),
        ({"form": "labels", "labels": {"A": 2}}, "worth 0 to 1"),
        ({"fields": "x"}, "Extra inputs"),
    ],
)
def test_a_form_that_cannot_be_is_refused(form: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        ScoreForm.model_validate(form)


def test_a_template_shows_values_as_they_are_and_runs_nothing() -> None:
    values = {"a": "{b} {a.__class__}", "b": 2, "c": {"d": ["é"]}}

    assert fill('{a} {b} {c.d} {"k": 1} \\frac{1}{2} {{a}}', values) == (
        '{b} {a.__class__} 2 ["é"] {"k": 1} \\frac{1}{2} {a}'
    )
    assert names_in("{a} {{b}} {c.d} {a}") == [("a", False), ("c.d", False)]
    for missing in ("{z}", "{a.__class__}", "{c.e}", "{b.real}"):
        with pytest.raises(KeyError):
            fill(missing, values)
