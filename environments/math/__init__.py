"""Competition mathematics, judged by equivalence with the expected answer.

Owned here: which part of the reply is the answer, and how the expected answer is read. Beside it:
spellings (`notation.py`, `numerals.py`), units (`labels.py`), what an answer says of its value
(`relations.py`), and comparing by digits (`comparison.py`). Not owned here: reading formulas and
comparing symbols, which are PyPI `math-verify`'s, and the judge that may be asked where they find
nothing equal.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from typing import Any, TypeVar

from gym_ray.environment import Environment, ExpectedAnswer, Outcome, TaskFields
from gym_ray.task import Task, invalid
from gym_ray.verdict import Verdict
from gym_ray.verifiers.answers import last_boxed
from gym_ray.verifiers.judge import conversation_text, equivalent

from .comparison import decided
from .labels import in_one_unit
from .notation import equal_in_notation, in_one_notation, spelled, without_stop
from .numerals import with_eulers_e
from .relations import (
    is_false_equation,
    is_named,
    is_relation,
    named_value,
    stated,
    states_no_value,
    value_of,
)

S = TypeVar("S")
T = TypeVar("T")

#: Longest one parse or one comparison may work. A verification has six at most, and few
#: need any of it, so that they fit the pool's default deadline of ten seconds.
STEP_SECONDS = 2
#: How often a step that goes on is told again.
_REMINDER_SECONDS = 0.1
#: math-verify's own limits, in whole seconds on the clock, which must not go off before ours.
_NO_ALARM = 3600
#: Longest text in a box that is read as an answer.
MOST_CHARACTERS = 2000
#: How much of the end of a reply is searched when nothing is boxed.
UNBOXED_CHARACTERS = 1000


class MathEnvironment(Environment):
    r"""Reward 1 when the reply's final answer equals `expected_answer`, else 0.

    The final answer is the last `\boxed{...}`. A reply that boxes nothing and was not cut short
    is searched for the last formula or number near its end.

    With a judge, an answer that does not is shown to it beside the expected one, and gets the
    reward when the judge says, in both orders, that they mean the same.

    Args:
        require_box: give no reward to answers outside a box.
        judge: which of the config's `judges` has the last word; None for none.
    """

    class Fields(TaskFields):
        expected_answer: ExpectedAnswer
        """LaTeX or plain text, with or without `$...$` or `\\(...\\)` around it."""

    def __init__(self, *, require_box: bool = False, judge: str | None = None) -> None:
        self._require_box = require_box
        self._judge = judge
        if judge is not None:
            self.asked_judges = (judge,)

    def warm_up(self) -> None:
        _parsed(r"\boxed{\frac{1}{2}}")  # the first parse imports and compiles for a second

    def verify(self, outcome: Outcome) -> Verdict:
        expected = outcome.task["expected_answer"]
        boxed = last_boxed(outcome.text)
        stated_text = self._answer_text(outcome, boxed)
        expected_text = _gold_text(expected)
        answer_text = with_eulers_e(stated_text, expected_text)
        expected_text = without_stop(spelled(with_eulers_e(expected_text, stated_text)))
        gold = _parsed(f"\\boxed{{{expected_text}}}")
        if not gold:
            raise invalid(f"field 'expected_answer': {expected!r} cannot be read as mathematics")
        if boxed is None:
            answer = _parsed(spelled(answer_text), in_prose=True)
            gold = _parsed(f"\\boxed{{{expected_text}}}", in_prose=True)
            is_correct = _equal(gold, answer)
        else:
            answer_text = stated(without_stop(spelled(answer_text)))
            answer = _read(answer_text)
            is_correct = bool(answer) and _equal_boxed(expected_text, answer_text, gold, answer)
        return Verdict(
            float(is_correct),
            metrics={"answer_found": bool(answer), "answer_boxed": boxed is not None},
        )

    async def review(self, outcome: Outcome, verdict: Verdict) -> Verdict:
        if self._judge is None:
            return verdict
        metrics = {**verdict.metrics, "rule_reward": verdict.reward}
        if verdict.reward or not verdict.metrics["answer_found"]:
            return Verdict(verdict.reward, metrics=metrics)
        is_right = await equivalent(
            self.judges[self._judge],
            conversation_text(outcome.task),
            str(outcome.task["expected_answer"]),
            self._answer_text(outcome, last_boxed(outcome.text)),
        )
        return Verdict(float(is_right), metrics=metrics)

    def answer(self, task: Task, text: str) -> str | None:
        """What is boxed, without spaces: answers written otherwise are others, even if equal.

        Votes of many rollouts are counted, and to compare all of them as mathematics takes long.
        """
        boxed = last_boxed(text)
        return None if boxed is None else "".join(spelled(boxed).split()) or None

    def gold_answer(self, task: Task) -> str:
        return f"\\boxed{{{task['expected_answer']}}}"

    def _answer_text(self, outcome: Outcome, boxed: str | None) -> str:
        if boxed is not None:
            answer = last_boxed(boxed) or boxed  # one in the other
            return answer if len(answer) <= MOST_CHARACTERS else ""
        if self._require_box or outcome.truncation_reason or "\\boxed" in outcome.text:
            return ""
        return outcome.text[-UNBOXED_CHARACTERS:]


def _gold_text(expected: str | int | float) -> str:
    """The answer alone, where a whole solution in the form of GSM8K's is given."""
    return str(expected).rpartition("####")[2].strip()


def _equal_boxed(expected: str, answer: str, gold: list[Any], read: list[Any]) -> bool:
    said = equal_in_notation(expected, answer)
    if said is not None:
        return said
    in_unit = in_one_unit(*in_one_notation(expected, answer))
    if in_unit is None or states_no_value(in_unit[0], in_unit[1]):
        return False
    if in_unit[0] != expected:
        gold = _parsed(f"\\boxed{{{in_unit[0]}}}")
    if in_unit[1] != answer:
        read = _read(in_unit[1])
    return _equal(gold, read)


def _equal(gold: list[Any], answer: list[Any]) -> bool:
    """Whether two read texts are equal: by their digits, where those decide, else by symbols."""
    import math_verify

    if not gold or not answer:
        return False
    said: bool | None = in_time(lambda: _by_digits(gold[0], answer[0]), otherwise=False)
    if said is not None:
        return said
    return in_time(
        lambda: bool(math_verify.verify(gold, answer, timeout_seconds=_NO_ALARM)), otherwise=False
    )


def _by_digits(gold: Any, answer: Any) -> bool | None:
    if not is_relation(gold) and is_false_equation(answer):
        return False
    if not is_relation(answer) and is_named(gold):
        return decided(value_of(gold), answer)
    return decided(gold, answer if is_relation(gold) else value_of(answer))


def _read(answer: str) -> list[Any]:
    """A boxed answer; where it is no formula as a whole, what it calls the value of a name."""
    read = _parsed(f"\\boxed{{{answer}}}", only_latex=True)
    value = named_value(answer) if all(isinstance(one, str) for one in read) else None
    return read if value is None else _parsed(f"\\boxed{{{value}}}", only_latex=True)


def _parsed(text: str, *, only_latex: bool = False, in_prose: bool = False) -> list[Any]:
    """What math-verify can read in `text`; empty when nothing, or not in time.

    Args:
        text: a formula in a box, or prose.
        only_latex: whether to read the box as a whole or not at all; otherwise, where it is no
            formula, the last number in it counts.
        in_prose: whether units are left out while reading, as is needed where they are not known
            to stand at the end.
    """
    import math_verify

    latex = math_verify.LatexExtractionConfig()
    if not in_prose:
        # It would leave out the last text in roman type and much else: `.5` of `7\text{.5}`, and
        # `j` of `3\mathbf{i} + 4\mathbf{j}`. `labels.py` knows what is a unit.
        settings = dataclasses.replace(latex.normalization_config, units=False)
        latex = dataclasses.replace(latex, normalization_config=settings)
    kinds: list[Any] = [latex]
    if not only_latex:
        kinds.append(math_verify.ExprExtractionConfig())
    return in_time(lambda: math_verify.parse(text, kinds, parsing_timeout=_NO_ALARM), otherwise=[])


def in_time(step: Callable[[], T], *, otherwise: S) -> T | S:
    """What `step` returns, or `otherwise` when it works for longer than a step may.

    Only time on the processor counts, so that a verdict does not depend on how busy the machine
    is; a machine that stands still is noticed by the pool of verifiers, and is no verdict.
    """
    from math_verify.errors import TimeoutException

    works = True

    def stop(number: int, frame: object) -> None:
        if works:
            raise TimeoutException

    before = signal.signal(signal.SIGVTALRM, stop)
    # Again and again: much of what is called goes on after any exception.
    signal.setitimer(signal.ITIMER_VIRTUAL, STEP_SECONDS, _REMINDER_SECONDS)
    try:
        try:
            return step()
        finally:
            works = False
    except (TimeoutException, RecursionError):  # what is nested too deeply takes too long as well
        return otherwise
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
