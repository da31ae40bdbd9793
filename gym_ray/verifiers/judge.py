"""Verdicts of judges: ready-made parts of a composed verdict, and what environments build on.

verifiers:
  correct: {use: environment}
  tone:
    use: gym_ray.verifiers.judge:rated
    params: {judge: grader, template: "Rate the tone of this reply …\n{response}\n[[1]] to [[5]]",
             score: {form: rating, low: 1, high: 5}}
    weight: 0.2

Owned here: what is asked, and in which order the sides of a comparison stand. Not owned here: how
a score is read (`judge_scores.py`), and calls, retries and cost (`judging.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from gym_ray.environment import Outcome
from gym_ray.errors import ConfigError
from gym_ray.judging import Judge, ask_for
from gym_ray.task import Task, invalid
from gym_ray.verdict import Verdict
from gym_ray.verifiers.judge_scores import ScoreForm
from gym_ray.verifiers.templates import fill, names_in, value_of

#: Names a template may use beside the row's fields: the policy's reply, and what it was asked.
OWN_NAMES = frozenset({"response", "prompt"})
#: In a template that compares: the two sides, in the order they are shown.
SIDES = frozenset({"first", "second"})


class Rubric:
    """What a judge is asked about a rollout, and what its reply is worth.

    Args:
        template: the question. `{response}` is the policy's reply, `{prompt}` what it was asked,
            any other name a field of the row. One with `{first}` and `{second}` compares the reply
            with a reference, and the score is the share of the first.
        score: see `ScoreForm`.
        system: system message, with the same names.
        reference: field of the row that holds the other side of a comparison.
        swap: ask a comparison in both orders, and take the mean.
        threshold: reward 1 from this score on and 0 below; None for the score itself.

    Raises:
        ConfigError: they do not fit each other.
    """

    def __init__(
        self,
        *,
        template: str,
        score: Mapping[str, Any] | None = None,
        system: str | None = None,
        reference: str | None = None,
        swap: bool = True,
        threshold: float | None = None,
    ) -> None:
        self._messages = [("system", system)] if system else []
        self._messages.append(("user", template))
        self._reference = reference
        self._swap = swap
        self._threshold = threshold
        try:
            self._form = ScoreForm.model_validate(dict(score or {}))
        except pydantic.ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, ('score', *problem['loc'])))}: {problem['msg']}"
                for problem in error.errors()
            )
            raise ConfigError(problems) from None
        names = {name for _, text in self._messages for name, _ in names_in(text)}
        sides = names & SIDES
        if (sides and sides != SIDES) or bool(sides) != (reference is not None):
            raise ConfigError(
                "a comparison needs {first} and {second} in its template, and reference, the "
                "field that holds the other side; a rating has none of them"
            )
        if not sides and "response" not in names:
            raise ConfigError("the template shows no {response}, so the judge would not see it")
        fields = names - OWN_NAMES - SIDES
        self._fields = sorted({*fields, reference} if reference is not None else fields)

    def check(self, row: Mapping[str, Any]) -> None:
        """Refuse a row that lacks a field of the template.

        Raises:
            RolloutFailure: `task_invalid`, naming it.
        """
        for name in self._fields:
            try:
                value_of(name, row)
            except KeyError:
                raise invalid(f"has no field {name!r}, which the judge is shown") from None

    async def judge(self, judge: Judge, outcome: Outcome) -> Verdict:
        """The verdict of a judge, with `judge_score` among the metrics, and where both orders were
        asked `judge_disagreement`: how far apart the two scores were.

        Raises:
            RolloutFailure: `verifier_error`, see `Judge.ask` and `ask_for`.
        """
        self.check(outcome.task.row)
        shown = {
            **outcome.task.row,
            "response": outcome.text,
            "prompt": conversation_text(outcome.task),
        }
        metrics = {}
        if self._reference is None:
            score = await self._ask(judge, shown)
        else:
            other = str(value_of(self._reference, outcome.task.row))
            score = await self._ask(judge, {**shown, "first": outcome.text, "second": other})
            if self._swap:
                swapped = {**shown, "first": other, "second": outcome.text}
                other_score = 1.0 - await self._ask(judge, swapped)
                metrics["judge_disagreement"] = abs(score - other_score)
                score = (score + other_score) / 2
        metrics["judge_score"] = score
        reward = score if self._threshold is None else float(score >= self._threshold)
        return Verdict(reward, metrics=metrics)

    async def _ask(self, judge: Judge, shown: Mapping[str, Any]) -> float:
        messages = [{"role": role, "content": fill(text, shown)} for role, text in self._messages]
        return await ask_for(judge, messages, self._form.read)


async def rated(
    outcome: Outcome,
    *,
    judge: Judge,
    template: str,
    score: Mapping[str, Any] | None = None,
    system: str | None = None,
    reference: str | None = None,
    swap: bool = True,
    threshold: float | None = None,
) -> Verdict:
    """What a judge says of a reply; see `Rubric`."""
    rubric = Rubric(
        template=template,
        score=score,
        system=system,
        reference=reference,
        swap=swap,
        threshold=threshold,
    )
    return await rubric.judge(judge, outcome)


EQUIVALENCE_TEMPLATE = """\
Do these two answers to one question mean the same? Differences of wording, notation, order or \
units written out do not matter; any difference in content does.

Question:
{question}

Answer A:
{first}

Answer B:
{second}

Think briefly if you need to. End with [[A=B]] if they mean the same, or [[A!=B]] if they do not."""

_EQUIVALENCE = ScoreForm(form="labels", labels={"[[A=B]]": 1, "[[A!=B]]": 0})


async def equivalent(judge: Judge, question: str, one: str, other: str) -> bool:
    """Whether two answers mean the same, to a judge that says so in both orders.

    Raises:
        RolloutFailure: `verifier_error`, see `Judge.ask` and `ask_for`.
    """
    for first, second in ((one, other), (other, one)):
        shown = {"question": question, "first": first, "second": second}
        messages = [{"role": "user", "content": fill(EQUIVALENCE_TEMPLATE, shown)}]
        if not await ask_for(judge, messages, _EQUIVALENCE.read):
            return False
    return True


def conversation_text(task: Task) -> str:
    """What the policy was asked, as text: a lone message as it is, others by their roles."""
    messages = [item for item in task.input_items if item.get("type", "message") == "message"]
    texts = [_content(item.get("content")) for item in messages]
    if len(messages) == 1:
        return texts[0]
    return "\n\n".join(
        f"{item['role']}: {text}" for item, text in zip(messages, texts, strict=True)
    )


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content or ())
