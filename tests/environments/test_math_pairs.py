"""Verdicts of the math environment on a table of pairs, by the rule that they are about.

`math_pairs.jsonl` has one pair a line: the rule, the expected answer, what is boxed, the reward.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.environments.test_math import judge

PAIRS = [json.loads(line) for line in Path(__file__).with_name("math_pairs.jsonl").open()]
RULES = sorted({rule for rule, *_ in PAIRS})


@pytest.mark.parametrize("rule", RULES)
def test_every_pair_of_a_rule_has_its_reward(rule: str) -> None:
    pairs = [pair[1:] for pair in PAIRS if pair[0] == rule]
    assert {reward for *_, reward in pairs} == {0, 1}
    wrong = [pair for pair in pairs if reward_of(pair[0], pair[1]) != pair[2]]
    assert wrong == []


def test_every_answer_equals_itself() -> None:
    answers = {answer for _, expected, answer, reward in PAIRS if reward == 1}
    wrong = [answer for answer in sorted(answers) if reward_of(answer, answer) != 1]
    assert wrong == []


def reward_of(expected: Any, answer: str) -> float:
    return judge(expected, f"So it is \\boxed{{{answer}}}, which was asked for.").reward
