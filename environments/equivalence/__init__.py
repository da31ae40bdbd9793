"""Short answers, judged by rules for what means the same.

Owned here: which part of a reply is the answer. Not owned here: the rules
(`verifiers/normal_form.py`), and judging by a model, which is what these rows ask for elsewhere.
"""

from __future__ import annotations

from typing import Annotated

import pydantic

from gym_ray.environment import Environment, ExpectedAnswer, Outcome, TaskFields
from gym_ray.task import Task
from gym_ray.verdict import Verdict
from gym_ray.verifiers.answers import (
    last_boxed,
    last_labelled,
    last_line,
    last_tagged,
    unwrapped,
)
from gym_ray.verifiers.normal_form import NormalForm, normal_form

NOTHING: NormalForm = ("words",)


class EquivalenceEnvironment(Environment):
    r"""Reward 1 when the reply's answer means the same as an expected one, else 0.

    The answer is the content of the last `\boxed{...}`, else of the last `<answer>` or
    `<final_answer>` tag, else what stands after the last `Answer:`, else the last line of a reply
    that was not cut short.

    Args:
        require_box: give no reward to answers outside a box.
    """

    class Fields(TaskFields):
        expected_answer: (
            ExpectedAnswer | Annotated[list[ExpectedAnswer], pydantic.Field(min_length=1)]
        )
        """One answer, or all that are right."""

        @pydantic.field_validator("expected_answer")
        @classmethod
        def _says_something(cls, expected: object) -> object:
            for answer in expected if isinstance(expected, list) else [expected]:
                if _form(str(answer)) == NOTHING:
                    raise ValueError(f"{answer!r} says nothing an answer could be compared with")
            return expected

    def __init__(self, *, require_box: bool = False) -> None:
        self._require_box = require_box

    def verify(self, outcome: Outcome) -> Verdict:
        expected = outcome.task["expected_answer"]
        accepted = [
            _form(str(one)) for one in (expected if isinstance(expected, list) else [expected])
        ]
        answer = self._stated_answer(outcome)
        form = NOTHING if answer is None else _form(answer)
        return Verdict(
            float(form != NOTHING and form in accepted),
            metrics={
                "answer_found": form != NOTHING,
                "answer_boxed": last_boxed(outcome.text) is not None,
            },
        )

    def gold_answer(self, task: Task) -> str:
        expected = task["expected_answer"]
        return f"\\boxed{{{expected[0] if isinstance(expected, list) else expected}}}"

    def _stated_answer(self, outcome: Outcome) -> str | None:
        boxed = last_boxed(outcome.text)
        if boxed is not None or self._require_box or "\\boxed" in outcome.text:
            return boxed
        marked = last_tagged(outcome.text, "answer")
        if marked is None:
            marked = last_tagged(outcome.text, "final_answer")
        if marked is None:
            marked = last_labelled(outcome.text, "answer")
        if marked is not None or outcome.truncation_reason:
            return marked
        return last_line(outcome.text)


def _form(answer: str) -> NormalForm:
    return normal_form(unwrapped(answer.replace("\\$", "$").replace("\\%", "%")))
