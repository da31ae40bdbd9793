"""`gym-ray env try`: whoever acts, what happens is told as it goes, and ends with the verdict."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.authoring import Sampled, Scripted, Subject, Typed, create_environment, try_environment
from gym_ray.authoring.person import Refused, turn_of
from gym_ray.errors import ConfigError, GymRayError, Interrupted
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers import load_renderer
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.renderers.tokenizers import ByteTokenizer
from gym_ray.rollout import Rollout
from tests.unit.test_conversation_text import acts

RENDERER: RolloutRenderer = load_renderer(None)
PUT_JARS = '/call put {"item": "jars", "count": 2}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new")
    for template in ("single", "tools", "game"):
        create_environment(template, folder, template)
    return folder


def typed(*lines: str, echo: bool = True) -> Typed:
    left = iter(lines)

    def read() -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return Typed(read, echo)


def tried(
    path: Path, policy: Any, row: int = 1, overrides: Sequence[str] = ()
) -> tuple[Rollout, list[str]]:
    told: list[str] = []
    rollout = try_environment(Subject.find(path, overrides), row, policy, told.append)
    return rollout, told


def test_a_person_calls_tools_and_is_told_what_they_give_and_the_verdict(folder: Path) -> None:
    rollout, told = tried(folder / "tools", typed(PUT_JARS, "All\\", "done"))

    assert rollout.reward == 1.0
    assert json.loads(rollout.response)[-1]["content"][0]["text"] == "All\ndone"
    text = "\n".join(told)
    assert f"tools, agent tool_calling: {folder}/tools/data/example.jsonl:1" in text
    assert "user\n  Put two jars on the shelf." in text
    assert "  put(item: string, [count]: integer) Put something on the shelf." in text
    said = text[text.index("you call put") :]
    assert said == (
        'you call put\n  {"item": "jars", "count": 2}\n\n'
        "tool\n  There are 2 jars now.\n\n"
        "you\n  All\n  done\n\n"
        "verdict: reward 1\n  metrics: calls 1"
    )


def test_what_a_terminal_has_shown_already_is_not_told_again(folder: Path) -> None:
    _, told = tried(folder / "tools", typed(PUT_JARS, "All done", echo=False))

    assert not any(line.startswith("you") or "All done" in line for line in told)
    assert "  There are 2 jars now." in told


def test_a_game_is_told_turn_by_turn(folder: Path) -> None:
    rollout, told = tried(folder / "game", typed("60", "40", "50"))

    assert rollout.reward == 0.75
    answers = [line for line in told if line in ("  Lower.", "  Higher.", "  Right!")]
    assert answers == ["  Lower.", "  Higher.", "  Right!"]
    assert "  turns: 0, 0, 0.75" in told


@pytest.mark.parametrize(
    ("policy", "row", "reward"),
    [
        (Scripted(), 1, 1.0),
        (Scripted(), 6, 1.0),
        (Scripted([PUT_JARS, "Done."]), 1, 1.0),
        (Scripted([PUT_JARS, "Done."]), 2, 0.0),
        (Scripted(["Done."]), 1, 0.0),
    ],
)
def test_a_script_is_what_it_is_given_or_the_gold_answer(
    policy: Scripted, row: int, reward: float, folder: Path
) -> None:
    rollout, told = tried(folder / "tools", policy, row)

    assert rollout.reward == reward
    assert f"verdict: reward {reward:g}" in told


@pytest.mark.parametrize("template", ["single", "tools", "game"])
def test_a_scripted_config_of_a_new_environment_runs(template: str, folder: Path) -> None:
    subject = Subject.find(folder / template / "scripted.yaml")
    policy = subject.config.policy
    rewards = []
    for row in range(1, 9):
        engine = ScriptedEngine(model="m", engine_args=dict(policy.engine_args))
        rollout = try_environment(subject, row, Sampled(engine, RENDERER), lambda line: None)
        rewards.append(rollout.reward)
        assert rollout.status == "completed"

    assert max(filter(None, rewards)) == 1.0
    assert min(reward for reward in rewards if reward is not None) < 1.0


def test_rows_are_those_of_collect_input_where_it_is_there(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    row = {"responses_create_params": {"input": "What?"}, "expected_answer": "that"}
    rows.write_text("\n" + json.dumps(row) + "\n")

    rollout, told = tried(
        folder / "single" / "config.yaml", typed("That"), overrides=[f"collect.input={rows}"]
    )

    assert rollout.reward == 1.0
    assert f"single, agent single_turn: {rows}:2" in told


@pytest.mark.parametrize(
    ("policy", "row", "message"),
    [
        (Scripted(), 9, r"example\.jsonl has no row 9"),
        (Scripted(["/quit"]), 1, "--reply: /quit is no reply"),
        (Scripted(["/call"]), 1, "--reply: write /call NAME"),
    ],
)
def test_what_cannot_be_played_is_told(
    policy: Scripted, row: int, message: str, folder: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        tried(folder / "tools", policy, row)


def test_without_a_gold_answer_a_reply_is_asked_for(folder: Path, tmp_path: Path) -> None:
    create_environment("bare", tmp_path)
    code = tmp_path / "bare" / "__init__.py"
    code.write_text(code.read_text().replace("def gold_answer", "def other"))

    with pytest.raises(ConfigError, match="line 1 has no gold answer; give --reply TEXT"):
        tried(tmp_path / "bare", Scripted())


def test_a_failed_rollout_is_told_and_is_an_error(folder: Path, tmp_path: Path) -> None:
    create_environment("bad", tmp_path)
    code = tmp_path / "bad" / "__init__.py"
    code.write_text(code.read_text().replace("found = ", "found = 1 / 0, "))
    told: list[str] = []

    with pytest.raises(GymRayError, match="the rollout has no verdict"):
        try_environment(Subject.find(tmp_path / "bad"), 1, typed("x"), told.append)

    assert told[-1].startswith("no verdict: verifier_error: ZeroDivisionError")


def test_hostile_rows_tools_and_replies_reach_no_terminal(tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07\x9b2J\u202eabc\r"
    create_environment("shop", tmp_path, "tools")
    code = tmp_path / "shop" / "__init__.py"
    code.write_text(code.read_text().replace("There are {left}", "\\x1b[2J{left}"))
    row = {
        "responses_create_params": {
            "input": hostile,
            "tools": [{"name": f"n{hostile}", "description": hostile}],
        },
        "start": {},
        "goal": {hostile: 1},
    }
    (tmp_path / "shop" / "data" / "example.jsonl").write_text(json.dumps(row) + "\n")

    lines = ("/call put " + json.dumps({"item": hostile}), f"/{hostile}", f"done {hostile}")
    _, told = tried(tmp_path / "shop", typed(*lines))

    assert [line for line in told if acts(line)] == []


@pytest.mark.parametrize(
    ("end", "error"), [(EOFError, GymRayError), (KeyboardInterrupt, Interrupted)]
)
def test_the_end_of_the_input_ends_the_rollout_and_its_environment(
    end: type[BaseException], error: type[GymRayError], tmp_path: Path
) -> None:
    create_environment("shop", tmp_path, "tools")
    code = tmp_path / "shop" / "__init__.py"
    ended = tmp_path / "ended"
    method = (
        f"\n    async def end(self, state: Shelf) -> None:\n        open({str(ended)!r}, 'w')\n"
    )
    code.write_text(code.read_text() + method)

    def lines() -> Iterator[str]:
        yield "/call look"
        raise end

    with pytest.raises(error, match="there is no verdict") as caught:
        tried(tmp_path / "shop", Typed(lines().__next__, echo=True))

    assert type(caught.value) is error
    assert ended.exists()


# What is typed.

NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(NAMES, st.dictionaries(st.text(), JSON), st.text(st.characters(codec="ascii")))
def test_a_typed_call_is_the_call_that_is_carried_out(
    name: str, arguments: dict[str, Any], text: str
) -> None:
    words = " ".join(text.replace("<", "").split()).strip("/\\")
    call = f"/call {name} {json.dumps(arguments)}"

    turn = turn_of([words, call, call], [name])

    prompt = RENDERER.render([{"role": "user", "content": "?"}])
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}}]
    tokens = ByteTokenizer().encode(turn, split_special_tokens=True)
    said = np.array([*tokens, RENDERER.stop_token_ids[0]], dtype=np.int32)
    message = RENDERER.parse(said, prompt, tools)
    found = [(one.name, json.loads(one.arguments), one.error) for one in message.tool_calls]
    assert found == [(name, arguments, None)] * 2
    assert message.content.strip() == words


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([""], "a line is your turn"),
        (["/cal x"], "there is no /cal"),
        (["/call"], "write /call NAME"),
        (["/call put {"], "the arguments are not JSON"),
        (["/call put [1]"], "no JSON object"),
    ],
)
def test_what_is_no_turn_is_refused_with_what_to_type(lines: list[str], told: str) -> None:
    with pytest.raises(Refused, match=told):
        turn_of(lines, ["put"])


def test_a_call_where_no_tools_are_offered_is_refused() -> None:
    with pytest.raises(Refused, match="no tools are offered here"):
        turn_of(["/call put"], [])


def test_a_text_may_begin_with_a_slash() -> None:
    assert turn_of(["//etc/passwd"], []) == "/etc/passwd"


# The command, in a pipe and in a terminal.


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gym_ray", "env", "try", *arguments]


def test_lines_can_be_piped_in(folder: Path) -> None:
    lines = f"/bogus\n{PUT_JARS}\nDone.\n"
    done = subprocess.run(
        command(str(folder / "tools")), input=lines, capture_output=True, text=True, timeout=100
    )

    assert done.returncode == 0, done.stderr
    assert "you call put" in done.stdout
    assert done.stdout.endswith("verdict: reward 1\n  metrics: calls 1\n")


def test_bytes_that_are_no_text_are_shown_all_the_same(folder: Path) -> None:
    done = subprocess.run(
        command(str(folder / "single")), input=b"\xff Paris\r\n", capture_output=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert b"verdict: reward 1" in done.stdout


def test_a_pipe_that_ends_early_is_told(folder: Path) -> None:

    ended = subprocess.run(
        command(str(folder / "game")), input="60\n", capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "gym-ray: the input ended before turn 2 of yours; there is no verdict\n"
    )


@pytest.mark.parametrize(
    ("text", "key", "code"),
    [(b"", b"\x03", 130), (b"half a line", b"\x03", 130), (b"", b"\x04", 1), (b"/quit", b"\n", 1)],
)
def test_ctrl_c_and_ctrl_d_end_cleanly_in_a_terminal(
    text: bytes, key: bytes, code: int, folder: Path
) -> None:
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover
        os.execv(sys.executable, command(str(folder / "single")))
    shown = _until(terminal, b"\n> ")
    os.write(terminal, text + key)
    shown += _until(terminal, b"no verdict")
    _, status = os.waitpid(process, 0)
    os.close(terminal)

    assert os.waitstatus_to_exitcode(status) == code
    assert b"there is no verdict" in shown
    assert b"Traceback" not in shown


def _until(terminal: int, mark: bytes) -> bytes:
    shown, deadline = b"", time.monotonic() + 100
    while mark not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 65536)
    return shown
