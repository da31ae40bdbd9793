"""Rewards of the math environment, each expected value worked out by hand."""

import contextlib
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from gym_ray.environment import Outcome
from gym_ray.environments import math
from gym_ray.environments.math import MathEnvironment
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.task import parse_task
from gym_ray.verdict import Verdict

EXAMPLES = Path(__file__).parents[2] / "environments" / "math" / "data" / "example.jsonl"


def judge(
    expected: Any, reply: str, *, truncation_reason: str | None = None, **params: Any
) -> Verdict:
    row = {"responses_create_params": {"input": "?"}, "expected_answer": expected}
    task = parse_task(json.dumps(row), task_index=0, source_file="t.jsonl", source_line=1)
    outcome = Outcome(task=task, text=reply, items=[], truncation_reason=truncation_reason)
    return MathEnvironment(**params).verify(outcome)


@pytest.mark.parametrize(
    ("expected", "reply"),
    [
        ("4", r"2 + 2 is \boxed{4}"),
        ("4", r"first \boxed{3}, but then \boxed{4}"),
        ("4", r"\boxed{4\text{ cm}}"),
        (4, r"\boxed{4}"),
        ("1/2", r"\boxed{0.5}"),
        (r"\frac12", r"\boxed{\dfrac{1}{2}}"),
        (r"\(\frac{333}{1997}\)", r"\boxed{\frac{333}{1997}}"),
        ("$x^2+2x+1$", r"\boxed{(x+1)^2}"),
        (r"\sqrt{8}", r"\boxed{2\sqrt{2}}"),
        ("1000", r"\boxed{1,000}"),
        (r"\pi", r"\boxed{π}"),
        (r"\{-7, 7\}", r"\boxed{\{7, -7\}}"),
        ("4", "The answer is 4."),
        ("4", "so $x = 4$"),
    ],
)
def test_an_equal_answer_is_worth_one(expected: Any, reply: str) -> None:
    verdict = judge(expected, reply)
    assert verdict.reward == 1.0
    assert verdict.metrics["answer_found"] == 1.0


@pytest.mark.parametrize(
    ("expected", "reply"),
    [
        ("4", r"\boxed{5}"),
        ("4", r"\boxed{4}, no: \boxed{5}"),
        ("4", r"\boxed{3}, and 4 elsewhere"),
        ("x+1", r"\boxed{x-1}"),
    ],
)
def test_another_answer_is_worth_nothing(expected: str, reply: str) -> None:
    assert judge(expected, reply).reward == 0.0


@pytest.mark.parametrize(
    ("expected", "reply"),
    [
        # percent
        (r"50\%", r"\boxed{50\%}"),
        (r"50\%", r"\boxed{0.5}"),
        ("0.5", r"\boxed{50\%}"),
        ("50%", r"\boxed{50 \text{ percent}}"),
        # units
        ("5 cm", r"\boxed{5}"),
        (r"5\text{ cm}", r"\boxed{5\mathrm{~cm}}"),
        (r"5\text{ m}^2", r"\boxed{5 m^2}"),
        ("60 km/h", r"\boxed{60 \text{ km/h}}"),
        ("5 km", r"\boxed{5000 \text{ m}}"),
        (r"5 \text{ meters}", r"\boxed{5\text{ m}}"),
        (r"\$12.50", r"\boxed{12.5}"),
        (r"90^\circ", r"\boxed{90}"),
        # sets and lists
        (r"\{1,2,3\}", r"\boxed{\{3,2,1\}}"),
        ("1, 2", r"\boxed{1 \text{ and } 2}"),
        (r"\{-2,2\}", r"\boxed{\pm 2}"),
        (r"\emptyset", r"\boxed{\varnothing}"),
        # intervals
        ("(1,2]", r"\boxed{\left(1,2\right]}"),
        (r"(-\infty,3)\cup(5,\infty)", r"\boxed{(5,\infty)\cup(-\infty,3)}"),
        (r"(-\infty, 3)", r"\boxed{x<3}"),
        (r"[0,\infty)", r"\boxed{x \ge 0}"),
        (r"[0,\infty)", r"\boxed{0 \leq x}"),
        ("(1, 2]", r"\boxed{1 < x \le 2}"),
        ("(1, 2]", r"\boxed{2 \ge x > 1}"),
        (r"x \ge 2", r"\boxed{[2, \infty)}"),
        # spellings
        ("4", r"\boxed{４}"),
        (r"\sqrt{2}", r"\boxed{√2}"),
        (r"\frac12", r"\boxed{½}"),
        ("x^2", r"\boxed{x²}"),
        ("1234", r"\boxed{1\,234}"),
        ("1{,}234", r"\boxed{1234}"),
        (r"3\times 10^8", r"\boxed{300000000}"),
        (
            r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
            r"\boxed{\begin{bmatrix}1&2\\3&4\end{bmatrix}}",
        ),
        (r"\text{even}", r"\boxed{even}"),
        ("12_7", r"\boxed{12_{7}}"),
    ],
)
def test_the_same_mathematics_in_another_notation_is_worth_one(expected: str, reply: str) -> None:
    assert judge(expected, reply).reward == 1.0


@pytest.mark.parametrize(
    ("expected", "reply"),
    [
        (r"50\%", r"\boxed{5\%}"),
        ("5 km", r"\boxed{5 m}"),
        ("5 kg", r"\boxed{5 s}"),
        (r"\{1,2\}", r"\boxed{\{1,2,3\}}"),
        ("(1,2]", r"\boxed{(1,2)}"),
        ("[1,2]", r"\boxed{(1,2)}"),
        ("(1, 2]", r"\boxed{1 < x < 2}"),
        (r"(-\infty, 3)", r"\boxed{x > 3}"),
        (r"(-\infty, 3)", r"\boxed{x \le 3}"),
        ("(1,2)", r"\boxed{(2,1)}"),
        ("12_7", r"\boxed{12_8}"),
        ("2:1", r"\boxed{1:2}"),
        (r"\infty", r"\boxed{-\infty}"),
        ("-5", r"\boxed{5}"),
        ("0.333", r"\boxed{1/3}"),
        (r"\text{odd}", r"\boxed{\text{even}}"),
    ],
)
def test_other_mathematics_in_like_notation_is_worth_nothing(expected: str, reply: str) -> None:
    assert judge(expected, reply).reward == 0.0


@pytest.mark.parametrize(
    "reply", ["", "   ", "no idea", r"\boxed{}", r"\boxed{4", r"\boxed{\frac{4}{", r"\boxed{" * 99]
)
def test_without_a_readable_answer_there_is_no_reward(reply: str) -> None:
    verdict = judge("4", reply)
    assert verdict.reward == 0.0
    assert verdict.metrics == {"answer_found": 0.0, "answer_boxed": reply == r"\boxed{}"}


def test_a_reply_cut_short_has_no_answer_outside_a_box() -> None:
    assert judge("4", "we get 4", truncation_reason="length").reward == 0.0
    assert judge("4", r"\boxed{4} since", truncation_reason="length").reward == 1.0


def test_a_box_can_be_required() -> None:
    assert judge("4", "it is 4", require_box=True).reward == 0.0
    assert judge("4", r"\boxed{4}", require_box=True).reward == 1.0


@pytest.mark.parametrize("huge", [r"7^{7^{7^{7}}}", r"(10^9)!", r"2^{10^{12}}+1"])
def test_a_huge_number_costs_seconds_at_most(huge: str) -> None:
    began = time.process_time()
    assert judge("4", rf"\boxed{{{huge}}}").reward == 0.0
    assert time.process_time() - began < 3 * math.STEP_SECONDS


@pytest.mark.parametrize("piece", ["1 ", ".", "{", "1e1 ", r"\, ", "=", r"\boxed ", r"\text{"])
def test_an_endless_answer_costs_next_to_nothing(piece: str) -> None:
    began = time.process_time()
    assert judge("4", rf"\boxed{{{piece * (200_000 // len(piece))}q}}").reward == 0.0
    assert time.process_time() - began < math.STEP_SECONDS


def test_time_in_which_nothing_is_worked_is_no_reason_for_a_verdict() -> None:
    def waiting() -> int:
        return subprocess.run(["sleep", str(math.STEP_SECONDS + 0.5)], check=True).returncode

    def working() -> int:
        while True:
            pass

    assert math.in_time(waiting, otherwise=1) == 0
    assert math.in_time(working, otherwise=1) == 1


def test_a_step_that_goes_on_after_any_exception_is_stopped_all_the_same() -> None:
    def stubborn() -> int:
        for _ in range(3):
            with contextlib.suppress(Exception):
                while True:
                    pass
        while True:
            pass

    began = time.process_time()
    assert math.in_time(stubborn, otherwise=1) == 1
    assert time.process_time() - began < math.STEP_SECONDS + 2


@pytest.mark.parametrize("exponent", [116, 516, 1016, 5016])
def test_closed_forms_are_compared_by_their_digits_in_little_time(exponent: int) -> None:
    expected, equal = rf"(2+\sqrt3)^{{{exponent}}}", rf"(7+4\sqrt3)^{{{exponent // 2}}}"
    began = time.process_time()
    assert judge(expected, rf"\boxed{{\frac{{1}}{{(2-\sqrt3)^{{{exponent}}}}}}}").reward == 1.0
    assert judge(expected, rf"\boxed{{{equal}}}").reward == 1.0
    assert judge(expected, rf"\boxed{{{equal}+1}}").reward == 0.0
    assert judge(expected, rf"\boxed{{(2+\sqrt3)^{{{exponent + 1}}}}}").reward == 0.0
    assert time.process_time() - began < 4 * math.STEP_SECONDS / 2


def test_an_unreadable_expected_answer_is_the_tasks_fault() -> None:
    with pytest.raises(RolloutFailure, match="expected_answer") as failure:
        judge("   ", r"\boxed{4}")
    assert failure.value.kind is FailureKind.TASK_INVALID


@pytest.mark.parametrize(
    "row",
    [{}]
    + [
        {"expected_answer": nothing}
        for nothing in (
            "",
            "  ",
            "\n",
            None,
            True,
            False,
            [],
            ["4"],
            {},
            *map(float, ("inf", "nan")),
        )
    ],
)
def test_a_row_that_expects_no_answer_is_refused_before_sampling(row: dict[str, Any]) -> None:
    with pytest.raises(RolloutFailure, match="expected_answer") as failure:
        MathEnvironment().check_task(row)
    assert failure.value.kind is FailureKind.TASK_INVALID


def test_every_example_is_solved_by_its_expected_answer() -> None:
    lines = EXAMPLES.read_text("utf-8").splitlines()
    assert len(lines) >= 5
    for number, line in enumerate(lines, start=1):
        task = parse_task(line, task_index=0, source_file=EXAMPLES.name, source_line=number)
        MathEnvironment().check_task(task.row)
        assert judge(task["expected_answer"], f"\\boxed{{{task['expected_answer']}}}").reward == 1.0
        assert judge(task["expected_answer"], r"\boxed{123456}").reward == 0.0


def test_a_row_of_nemo_gyms_math_with_judge_is_accepted() -> None:
    row = {
        "responses_create_params": {"input": [{"role": "user", "content": "Find it."}]},
        "question": "Find it.",
        "expected_answer": r"\(\frac{333}{1997}\)",
    }
    MathEnvironment().check_task(row)
