"""Clients nobody here wrote, unmodified, in sessions: each leaves one branch with all it was told.

They spell what they were told anew (`1.0` as `1`, a blank for no content, reasoning in the text,
references to items), and none of it is an edit.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from gym_ray.serving.recorder import RecordTarget
from gym_ray.store.stored_run import read_rollouts
from tests.gateway.session_server import Replicas, call, of, opened, serving_sessions
from tests.replies import tool_calls
from tests.sessions import saying, sum_row

pytestmark = pytest.mark.long(
    "Needs clients from PyPI and npm in an environment of their own, a minute to make; what they "
    "do to a history is in tests/unit/test_histories.py."
)

PLACE = Path(__file__).parents[2] / ".outside-clients"
PROGRAMS = Path(__file__).parent / "outside"
PYTHON_CLIENTS = re.findall(
    r'^    "([a-z-]+)": lambda', (PROGRAMS / "clients.py").read_text(), re.M
)
NODE_CLIENTS = re.findall(r'^  "([a-z-]+)": \(\) =>', (PROGRAMS / "clients.mjs").read_text(), re.M)

THOUGHT = "<think>\nLet me see.\n</think>\n\n"
REPLIES = (
    THOUGHT + tool_calls(("add", {"a": 1.0, "b": 1.0}), ("add", {"b": 2.0, "a": 2.5})),
    THOUGHT + "Once more:\n" + tool_calls(("add", {"a": 1e3, "b": -0.5})),
    "It is 2 and 4.",
    THOUGHT + tool_calls(("add", {"a": 1.0, "b": 2.0})),
    THOUGHT + "3",
)


def command_of(client: str) -> list[str]:
    if client in NODE_CLIENTS:
        return ["node", str(PROGRAMS / "clients.mjs"), client]
    return [str(PLACE / "venv" / "bin" / "python"), str(PROGRAMS / "clients.py"), client]


@pytest.mark.parametrize("client", [*PYTHON_CLIENTS, *NODE_CLIENTS])
def test_an_outside_clients_conversation_is_one_branch(tmp_path: Path, client: str) -> None:
    assert (PLACE / "installed").exists(), "run scripts/outside-clients.sh first"
    target = RecordTarget(str(tmp_path / "run"), "run")
    with serving_sessions(Replicas(target, generate=saying(*REPLIES))) as url:
        session = opened(url, sum_row())
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": session["base_url"],
            "OPENAI_API_KEY": session["key"],
            "NODE_PACKAGES": str(PLACE),
        }
        ran = subprocess.run(
            command_of(client), env=environment, cwd=tmp_path, capture_output=True, text=True,
            timeout=100,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-3000:]
        status, state = call("POST", of(url, session, "/verify"), session["key"])
    assert (status, state["reward"], state["turns"]) == (200, 1.0, len(REPLIES)), state
    (rollout,) = read_rollouts(tmp_path / "run")
    assert (len(rollout.turns), rollout.side_branches) == (len(REPLIES), ())
    items = json.loads(rollout.response)
    calls = [item["call_id"] for item in items if item["type"] == "function_call"]
    assert calls == [item["call_id"] for item in items if item["type"] == "function_call_output"]
    assert len(calls) == 4
