"""Rewards of the code environment, each expected value worked out by hand."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gym_ray.environment import Outcome
from gym_ray.environments.code import CodeEnvironment
from gym_ray.environments.code.outputs import same_output, same_value
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.sandbox import Sandbox
from gym_ray.task import parse_task
from gym_ray.verdict import Verdict
from gym_ray.verifiers import VerifierPool
from gym_ray.verifiers.answers import last_code_block

EXAMPLES = Path(__file__).parents[2] / "environments" / "code" / "data" / "example.jsonl"
SUMS = {"inputs": ["1 2\n", "3 4\n", "10 20\n", "0 0\n"], "outputs": ["3\n", "7\n", "30\n", "0\n"]}
ADD = "a, b = map(int, input().split())\nprint(a + b)"
GOLD = [
    ADD,
    "words = [input() for _ in range(int(input()))]\nprint('\\n'.join(words[::-1]))",
    "print(sum(map(int, input())))",
    "def count_vowels(text):\n    return sum(letter in 'aeiou' for letter in text.lower())",
    "class Solution:\n    def merge(self, first, second):\n        return sorted(first + second)",
    "from calendar import isleap as leap_year",
]


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[str, CodeEnvironment]]:
    """One environment, and so one sandbox, for each set of params."""
    opened: dict[str, CodeEnvironment] = {}
    yield opened
    for environment in opened.values():
        environment.close()


@pytest.fixture
def judge(shared: dict[str, CodeEnvironment]) -> Any:
    def judged(tests: dict[str, Any], reply: str, **params: Any) -> Verdict:
        environment = shared.setdefault(json.dumps(params), CodeEnvironment(**params))
        outcome = outcome_of(tests, reply)
        environment.check_task(outcome.task.row)
        return environment.verify(outcome)

    return judged


def outcome_of(tests: dict[str, Any], reply: str) -> Outcome:
    row = {"responses_create_params": {"input": "?"}, "verifier_metadata": {"unit_tests": tests}}
    task = parse_task(json.dumps(row), task_index=0, source_file="t.jsonl", source_line=1)
    return Outcome(task=task, text=reply, items=[])


def fenced(code: str) -> str:
    return f"Here:\n```python\n{code}\n```\nDone."


@pytest.mark.parametrize("number", range(len(GOLD)))
def test_gold_programs_of_the_example_rows_get_one_and_perturbed_ones_do_not(
    judge: Any, number: int
) -> None:
    tests = json.loads(EXAMPLES.read_text("utf-8").splitlines()[number])["verifier_metadata"]
    verdict = judge(tests["unit_tests"], fenced(GOLD[number]))
    assert verdict.reward == 1.0
    assert verdict.components == {"tests": 1.0}
    for other in (GOLD[(number + 1) % len(GOLD)], "exit()", "import os; os._exit(0)", ""):
        assert judge(tests["unit_tests"], fenced(other)).reward == 0.0


def test_a_program_that_passes_some_tests_gets_its_share_only_when_asked(judge: Any) -> None:
    # Right for 3 4 (7), 1 2 (3) and 0 0; wrong for 10 20: 3 of 4.
    almost = "a, b = map(int, input().split())\nprint((a + b) % 16)"
    partial = judge(SUMS, fenced(almost), reward="partial")
    assert partial.reward == 0.75
    assert partial.metrics["tests_passed_share"] == 0.75
    assert (partial.metrics["tests"], partial.metrics["tests_run"]) == (4, 4)
    whole = judge(SUMS, fenced(almost))
    assert whole.reward == 0.0
    assert whole.metrics["tests_run"] == 3  # the third one failed


def test_tests_after_a_failure_count_as_failed_when_they_are_left_out(judge: Any) -> None:
    almost = "a, b = map(int, input().split())\nprint((a + b) % 16)"
    verdict = judge(SUMS, fenced(almost), reward="partial", stop_at_failure=True)
    assert verdict.reward == 0.5


def test_tests_may_run_at_once(judge: Any) -> None:
    verdict = judge(SUMS, fenced(ADD), sandbox={"concurrency": 3})
    assert (verdict.reward, verdict.metrics["tests_run"]) == (1.0, 4)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(100)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "print('3'); raise SystemExit(1)",
        "print('x' * (1 << 26))",
        "this is not Python",
    ],
)
def test_a_program_that_fails_its_test_is_worth_nothing(judge: Any, code: str) -> None:
    one = {"inputs": ["1 2"], "outputs": ["3"]}
    assert judge(one, fenced(code), test_seconds=0.5, memory_mebibytes=128).reward == 0.0


def test_a_reply_without_a_block_is_a_program_only_when_allowed(judge: Any) -> None:
    assert judge(SUMS, ADD).metrics["code_found"] == 0.0
    assert judge(SUMS, ADD, require_fence=False).reward == 1.0


def test_each_test_has_an_interpreter_and_a_directory_of_its_own(judge: Any) -> None:
    code = "import os\nassert not os.path.exists('left')\nopen('left', 'w').close()\n" + ADD
    assert judge(SUMS, fenced(code)).reward == 1.0


def test_calls_take_arguments_as_lists_or_lines_and_ignore_what_is_printed(judge: Any) -> None:
    code = "def pair(a, b):\n    print('working on it')\n    return (b, a)"
    tests = {"inputs": [[1, "x"], '1\n"x"'], "outputs": [["x", 1], '["x", 1]'], "fn_name": "pair"}
    assert judge(tests, fenced(code)).reward == 1.0
    assert judge(tests, fenced("def pair(a, b): return [a, b]")).reward == 0.0
    assert judge(tests, fenced("def pear(a, b): return [b, a]")).reward == 0.0


def test_expected_outputs_are_not_in_the_sandbox(judge: Any) -> None:
    search = (
        "def f(x):\n    import os, sys\n    frame, text = sys._getframe(), ''\n"
        "    while frame:\n        text += repr(frame.f_globals) + repr(frame.f_locals)\n"
        "        frame = frame.f_back\n"
        "    for name in os.listdir('.'):\n        text += open(name).read()\n"
        "    return 4711 if '47' + '11' in text.replace('4711 if', '') else 0"
    )
    assert judge({"inputs": [[1]], "outputs": [4711], "fn_name": "f"}, fenced(search)).reward == 0.0


def test_assertions_may_have_a_setup(judge: Any) -> None:
    tests = {"setup": "import math", "asserts": ["assert math.isclose(third(), 1 / 3)"]}
    assert judge(tests, fenced("def third(): return 1 / 3")).reward == 1.0
    assert judge(tests, fenced("def third(): return 0.3")).reward == 0.0


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ({}, "needs inputs and outputs"),
        ({"inputs": [], "outputs": []}, "needs inputs and outputs"),
        ({"inputs": ["1"], "outputs": ["1", "2"]}, "1 inputs and 2 outputs"),
        ({"inputs": [1], "outputs": ["1"]}, "must be text"),
        ({"inputs": ["not json"], "outputs": [1], "fn_name": "f"}, "not one JSON value"),
        ({"asserts": []}, "asserts is empty"),
        ({"asserts": ["assert ("]}, "is not Python"),
        ({"asserts": ["assert 1"], "inputs": ["1"], "outputs": ["1"]}, "keep one"),
    ],
)
def test_a_row_without_usable_tests_is_refused_before_any_generation(
    tests: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RolloutFailure, match=reason) as caught:
        CodeEnvironment().check_task(outcome_of(tests, "").task.row)
    assert caught.value.kind is FailureKind.TASK_INVALID
    assert "verifier_metadata.unit_tests" in caught.value.message


def test_a_row_without_metadata_names_the_field() -> None:
    with pytest.raises(RolloutFailure, match="verifier_metadata"):
        CodeEnvironment().check_task({"responses_create_params": {"input": "?"}})


def test_a_failing_sandbox_is_no_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RolloutFailure(FailureKind.SANDBOX_ERROR, "the warden has gone")

    environment = CodeEnvironment()
    environment.warm_up()
    monkeypatch.setattr(Sandbox, "run", fail)
    with pytest.raises(RolloutFailure) as caught:
        environment.verify(outcome_of(SUMS, fenced(ADD)))
    assert caught.value.kind is FailureKind.SANDBOX_ERROR
    environment.close()


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"reward": "some"}, "all or partial"),
        ({"sandbox": {"provider": "docker"}}, "provider"),
        ({"sandbox": {"concurency": 1}}, "concurency"),
    ],
)
def test_params_that_make_no_sense_are_a_config_error(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        CodeEnvironment(**params)


def test_it_verifies_in_the_pool() -> None:
    async def scenario() -> None:
        factory = functools.partial(CodeEnvironment, reward="partial")
        async with VerifierPool(factory, processes=2, timeout_seconds=60) as pool:
            verdicts = await asyncio.gather(
                *(pool.verify(outcome_of(SUMS, fenced(code))) for code in (ADD, "exit()") * 3)
            )
            assert [verdict.reward for verdict in verdicts] == [1.0, 0.0] * 3

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```\nthen\n```python\nb\n```", "b\n"),
        ("```python\na\n```\nrun it:\n```bash\npython a.py\n```", "a\n"),
        ("```\na\n```", "a\n"),
        ("```py\na\n```\n```\nits output\n```", "a\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("~~~python\na\n~~~", "a\n"),
        ("```python\ncut short", None),
        ("```python\na\n```\n```python\ncut short", "a\n"),
        ("```c\na\n```", None),
        ("nothing", None),
    ],
)
def test_the_program_is_the_last_complete_python_block(text: str, code: str | None) -> None:
    assert last_code_block(text) == code


@pytest.mark.parametrize(
    ("found", "expected", "tolerance", "is_same"),
    [
        ("1\n2\n", "1\n2", 0, True),
        ("1  \n2 \n\n", "1\n2", 0, True),
        ("1\r\n2\r\n", "1\n2", 0, True),
        ("1 2", "1\n2", 0, True),
        ("1  2", "1 2", 0, True),
        ("12", "1 2", 0, False),
        ("1 2 3", "1 2", 0, False),
        ("", "", 0, True),
        ("0.1", "0.10", 0, False),
        ("0.1", "0.10", 1e-9, True),
        ("a 1.00001", "a 1", 1e-4, True),
        ("a 1.01", "a 1", 1e-4, False),
        ("nan", "1", 1e-4, False),
    ],
)
def test_outputs_are_compared_word_by_word(
    found: str, expected: str, tolerance: float, is_same: bool
) -> None:
    assert same_output(found, expected, tolerance) is is_same


@pytest.mark.parametrize("step", [1, -1, 1000])
@pytest.mark.parametrize("whole", [1_000_000_007, 10**17, -(10**40), 10**400])
def test_whole_numbers_have_no_tolerance(whole: int, step: int) -> None:
    assert same_output(str(whole), str(whole), 1e-6)
    assert same_value([whole], [whole], 1e-6)
    assert not same_output(str(whole + step), str(whole), 1e-6)
    assert not same_value([whole + step], [whole], 1e-6)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("0.30000000000000004", "0.3", True), ("1.0", "1", True), ("1e-7", "0", True),
        ("1e3", "1000.0", True), ("-0", "0", True), ("1000000008.0", "1000000007", True),
        ("1_000", "1000", False), ("1_000.0", "1000.0", False), ("+5.0", "5", False),
        ("inf", "inf", True), ("inf", "1e999", False), ("nan", "1.0", False), ("٣.0", "3", False),
        ("0x10", "16", False), ("5.0", "5.1", False), ("1e999", "1e1000", False),
        ("1" * 5000 + ".5", "1", False),
    ],
)  # fmt: skip
def test_numbers_with_tolerance_are_those_of_json(found: str, expected: str, same: bool) -> None:
    assert same_output(found, expected, 1e-6) == same


def test_values_are_compared_as_json() -> None:
    assert same_value([1, 2.0, {"a": None}], [1.0, 2, {"a": None}], 0.0)
    assert not same_value([True], [1], 0.0)
    assert not same_value("1", 1, 0.0)
    assert same_value([0.1 + 0.2], [0.3], 1e-9)
    assert not same_value([0.1 + 0.2], [0.3], 0.0)
