"""NeMo Gym's own stored rollouts get the rewards here that they got there.

Each `resources_servers/NAME/data/example_rollouts*.jsonl` of the servers whose rows we run is said
again, turn by turn, by a scripted policy. Where rewards differ, `DIFFERENT` says why, and the
environment's README does. Left out are those that cannot be judged again: the rows of
`structured_outputs` and `workplace_assistant` are not stored with their rollouts, and `blackjack`
deals other cards.

They are read from beside the checkout (`../shared/data/nemo_gym_servers`), else from NeMo Gym's own
package, which `scripts/nemo-gym.sh` installs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gym_ray.environment import Environment
from gym_ray.environments.code import CodeEnvironment
from gym_ray.environments.equivalence import EquivalenceEnvironment
from gym_ray.environments.instruction_following import InstructionFollowingEnvironment
from gym_ray.environments.math import MathEnvironment
from gym_ray.environments.mcqa import McqaEnvironment
from gym_ray.environments.multi_step import MultiStepEnvironment
from gym_ray.environments.reasoning_gym import ReasoningGymEnvironment
from gym_ray.environments.session_counter import SessionCounterEnvironment
from gym_ray.environments.single_tool_call import SingleToolCallEnvironment
from gym_ray.environments.string_match import StringMatchEnvironment
from gym_ray.environments.tool_call_multireward import ToolCallMultirewardEnvironment
from tests.interop import scripted
from tests.interop.test_nemo_gym_rows import DATA
from tests.replies import tool_calls
from tests.trajectories import play

pytestmark = pytest.mark.long("Needs NeMo Gym's package, which takes a minute to install.")

ROOT = Path(__file__).parents[2]
#: Where `NAME/data/` is looked for, in order.
SERVERS = [
    DATA.parent / "nemo_gym_servers",
    *ROOT.glob(".nemo-gym/lib/python3*/site-packages/resources_servers"),
]
ONE_TURN: dict[str, Callable[[], Environment]] = {
    "code_gen": CodeEnvironment,
    "equivalence_llm_judge": EquivalenceEnvironment,
    "instruction_following": InstructionFollowingEnvironment,
    "math_with_judge": MathEnvironment,
    "mcqa": McqaEnvironment,
    "reasoning_gym": ReasoningGymEnvironment,
    "string_match": StringMatchEnvironment,
    "example_tool_call_multireward": ToolCallMultirewardEnvironment,
}
WITH_TOOLS: dict[str, Callable[[], Environment]] = {
    "example_multi_step": MultiStepEnvironment,
    "example_session_state_mgmt": SessionCounterEnvironment,
    "example_single_tool_call": SingleToolCallEnvironment,
}
FILES = [
    *((server, "example_rollouts.jsonl") for server in (*ONE_TURN, *WITH_TOOLS)),
    ("equivalence_llm_judge", "example_rollouts_openqa.jsonl"),
    ("mcqa", "example_rollouts_with_template_metadata.jsonl"),
]

_LAYOUT = "words are compared, and not how lines and blanks separate them"
_JUDGED = "a judge accepted it, the rules do not"
_COMPONENTS = "three components of weight 1 there, which sum to 1 here; only the call is judged"

#: Rollouts by file and line, their reward there and here, and why it is another.
DIFFERENT: dict[tuple[str, str, int], tuple[float, float, str]] = {
    ("code_gen", "example_rollouts.jsonl", 3): (0.0, 1.0, _LAYOUT),
    ("code_gen", "example_rollouts.jsonl", 5): (0.0, 1.0, _LAYOUT),
    ("equivalence_llm_judge", "example_rollouts.jsonl", 5): (1.0, 0.0, _JUDGED),
    ("equivalence_llm_judge", "example_rollouts_openqa.jsonl", 1): (1.0, 0.0, _JUDGED),
    ("equivalence_llm_judge", "example_rollouts_openqa.jsonl", 4): (1.0, 0.0, _JUDGED),
    ("example_single_tool_call", "example_rollouts.jsonl", 1): (1.0, 0.0, "no call, no reward"),
    ("example_single_tool_call", "example_rollouts.jsonl", 2): (1.0, 0.0, "no call, no reward"),
    ("instruction_following", "example_rollouts.jsonl", 4): (0.0, 1.0, "a dash ends a word"),
    ("mcqa", "example_rollouts.jsonl", 3): (
        0.0, 1.0, "a letter before its option's text counts, as in NeMo Gym since",
    ),
    **{
        ("example_tool_call_multireward", "example_rollouts.jsonl", number): (2.0, 1.0, _COMPONENTS)
        for number in range(1, 6)
    },
}  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("server", "file"), FILES)
def test_stored_rollouts_get_their_rewards(server: str, file: str) -> None:
    environment = (ONE_TURN | WITH_TOOLS)[server]()
    rows = rows_of(server)
    found, expected = {}, {}
    try:
        for number, stored in enumerate(lines_of(server, file), start=1):
            row = rows[question_of(stored)]
            assert row["responses_create_params"].keys() <= stored["responses_create_params"].keys()
            found[number] = reward_of(server, environment, row, stored["response"]["output"])
            there = float(stored["reward"])
            differs = DIFFERENT.get((server, file, number))
            # Another version of NeMo Gym may have stored another reward.
            expected[number] = differs[1] if differs and differs[0] == there else there
    finally:
        getattr(environment, "close", lambda: None)()
    assert len(found) == 5
    assert found == expected


def reward_of(
    server: str, environment: Environment, row: dict[str, Any], output: list[dict[str, Any]]
) -> float | None:
    line = json.dumps(row)
    if server in ONE_TURN:
        said = _turns(output)[0]
        return scripted.reward_of(environment, line, said)
    rollout = play(environment, "tool_calling", line, *_turns(output))
    assert rollout.error is None, rollout.error
    return rollout.reward


def rows_of(server: str) -> dict[str, dict[str, Any]]:
    """The rows a server's rollouts were made of, by their question; rollouts lack some fields."""
    files = sorted(folder_of(server).glob("example*.jsonl"))
    rows = [
        json.loads(line)
        for file in files
        if "rollouts" not in file.name
        for line in file.read_text("utf-8").splitlines()
    ]
    return {question_of(row): row for row in rows}


def lines_of(server: str, file: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (folder_of(server) / file).read_text("utf-8").splitlines()
        if line.strip()
    ]


def folder_of(server: str) -> Path:
    folders = [root / server / "data" for root in SERVERS]
    return next(folder for folder in folders if (folder / "example_rollouts.jsonl").is_file())


def question_of(row: dict[str, Any]) -> str:
    given = row["responses_create_params"]["input"]
    return given if isinstance(given, str) else "\n".join(_text(item) for item in given)


def _text(item: dict[str, Any]) -> str:
    content = item.get("content")
    return content if isinstance(content, str) else "".join(part["text"] for part in content or ())


def _turns(output: list[dict[str, Any]]) -> list[str]:
    """What the policy said, turn by turn: texts and calls up to the results of these."""
    turns: list[str] = []
    texts: list[str] = []
    calls: list[tuple[str, object]] = []
    for item in [*output, {"type": "function_call_output"}]:
        if item["type"] == "message":
            texts.append(_text(item))
        elif item["type"] == "function_call":
            calls.append((item["name"], json.loads(item["arguments"])))
        elif item["type"] == "function_call_output" and (texts or calls):
            turns.append("\n".join([*texts, *([tool_calls(*calls)] if calls else [])]))
            texts, calls = [], []
    return turns
