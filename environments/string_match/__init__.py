"""Short free-form answers, judged by comparing strings.

Owned here: which part of a reply is compared. Not owned here: equality beyond spelling
(`environments/equivalence`) and what only looks different (`verifiers/text.py`).
"""

from __future__ import annotations

from typing import Literal

import pydantic

from gym_ray.environment import Environment, ExpectedAnswer, Outcome, TaskFields
from gym_ray.task import Task
from gym_ray.verdict import Verdict
from gym_ray.verifiers.answers import last_boxed, last_labelled, last_line, unwrapped
from gym_ray.verifiers.text import plain

ExtractionMode = Literal["final_answer", "boxed", "last_line", "full_response"]


class StringMatchEnvironment(Environment):
    """Reward 1 when the answer a reply states equals `expected_answer`, else 0."""

    class Fields(TaskFields):
        expected_answer: ExpectedAnswer
        extraction_mode: ExtractionMode = "final_answer"
        case_sensitive: bool = False

        @pydantic.field_validator("expected_answer")
        @classmethod
        def _says_something(cls, answer: str | int | float) -> str | int | float:
            if not comparable(str(answer), case_sensitive=True):
                raise ValueError("is empty; there would be nothing to match")
            return answer

    def verify(self, outcome: Outcome) -> Verdict:
        fields = self.Fields.model_validate(outcome.task.row)
        answer = stated_answer(outcome.text, fields.extraction_mode)
        expected = comparable(str(fields.expected_answer), case_sensitive=fields.case_sensitive)
        is_equal = answer is not None and expected == comparable(
            answer, case_sensitive=fields.case_sensitive
        )
        return Verdict(float(is_equal), metrics={"answer_found": bool(answer)})

    def answer(self, task: Task, text: str) -> str | None:
        fields = self.Fields.model_validate(task.row)
        stated = stated_answer(text, fields.extraction_mode)
        return stated and comparable(stated, case_sensitive=fields.case_sensitive)

    def gold_answer(self, task: Task) -> str:
        fields = self.Fields.model_validate(task.row)
        match fields.extraction_mode:
            case "boxed":
                return f"\\boxed{{{fields.expected_answer}}}"
            case "final_answer":
                return f"Final answer: {fields.expected_answer}"
        return str(fields.expected_answer)


def stated_answer(reply: str, mode: ExtractionMode) -> str | None:
    """The part of a reply that is compared; None when it states no answer in that way."""
    match mode:
        case "boxed":
            return last_boxed(reply)
        case "last_line":
            return last_line(reply)
        case "full_response":
            return reply
    labelled = last_labelled(reply, "final answer|answer")
    if labelled is None:
        return last_boxed(reply)
    boxed = last_boxed(labelled)
    return labelled if boxed is None else boxed


def comparable(answer: str, *, case_sensitive: bool) -> str:
    """What is compared: without markup around it, a final full stop, or odd spaces and quotes."""
    text = unwrapped(plain(unwrapped(answer)))
    text = unwrapped(text.removesuffix("."))
    return text if case_sensitive else text.casefold()
