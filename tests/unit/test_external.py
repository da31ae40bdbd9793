"""`agent: external` as collections drive it: a program or a URL per rollout, told where its
session is.
"""

import asyncio
import contextlib
import json
import os
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from gym_ray.agents.external import ExternalAgent
from gym_ray.agents.sessions import Closing, OpenedSession, SessionError
from gym_ray.config.environment import ExternalAgentConfig
from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.policies.engine import GenerationRequest
from gym_ray.rollout import Rollout
from gym_ray.turn import Generation
from tests.cluster import scripted_config, until
from tests.sessions import Caller, Replica, spec_of, sum_row

ROW = sum_row("3")


async def driven(replica: Replica, directory: Path, **config: Any) -> Rollout:
    """One rollout of an outside agent with this config."""
    agent = ExternalAgent(ExternalAgentConfig(**config), replica.host, str(directory))
    return await replica.runner("external", agent).run(spec_of(ROW), replica.settings, attempt=1)


def program(folder: Path, text: str) -> list[str]:
    """The command of a Python program."""
    (folder / "agent.py").write_text(textwrap.dedent(text))
    return [sys.executable, "-S", "agent.py"]


async def there(path: Path) -> str:
    """Text of a file, once it is there."""
    await asyncio.to_thread(until, path.exists, 20, f"{path.name} is there")
    return path.read_text()  # noqa: ASYNC240


#: Tells what it was told, and ends when there is a file `go`, with the exit code in it.
TELLS = """
    import json, os, time
    told = {name: os.environ[name] for name in (
        "OPENAI_BASE_URL", "OPENAI_API_KEY", "GYM_RAY_TASK", "GYM_RAY_SESSION")}
    told["task"] = json.load(open(told["GYM_RAY_TASK"]))
    open("telling", "w").write(json.dumps(told))
    os.rename("telling", "told")
    while not os.path.exists("go"):
        time.sleep(0.02)
    raise SystemExit(int(open("go").read() or 0))
"""


async def with_calls(
    tmp_path: Path,
    replica: Replica,
    calls: Callable[[Caller], Awaitable[None]],
    exit_code: int = 0,
) -> Rollout:
    """The rollout of a program for which `calls` makes the policy calls."""
    command = program(tmp_path, TELLS)
    rollout = asyncio.ensure_future(driven(replica, tmp_path, command=command))
    told = json.loads(await there(tmp_path / "told"))
    assert told["task"] == ROW
    session_id = told["GYM_RAY_SESSION"]
    assert told["OPENAI_BASE_URL"] == f"http://gateway/sessions/{session_id}/v1"
    state = await replica.host.state(session_id, told["OPENAI_API_KEY"])
    opened = OpenedSession(session_id, told["OPENAI_API_KEY"], state.rollout_id, state.expires_at)
    await calls(Caller(replica.host, opened, ROW))
    (tmp_path / "go.part").write_text(str(exit_code))
    os.rename(tmp_path / "go.part", tmp_path / "go")
    finished = await rollout
    assert not os.path.exists(told["GYM_RAY_TASK"])  # noqa: ASYNC240
    return finished


def test_a_program_is_told_its_session_and_its_calls_are_the_rollout(tmp_path: Path) -> None:
    async def play(caller: Caller) -> None:
        await caller.play()

    rollout = asyncio.run(with_calls(tmp_path, Replica(), play))
    built_in = asyncio.run(Replica().built_in(ROW))

    assert (rollout.status, rollout.reward, rollout.agent) == ("completed", 1.0, "external")
    assert rollout.token_ids.tolist() == built_in.token_ids.tolist()


@pytest.mark.parametrize(
    ("whose", "ended"),
    [
        ("its own", ("truncated", "context", None)),
        ("a helper's", ("failed", None, "environment_error")),
    ],
)
def test_a_program_that_gives_up_when_its_own_prompt_outgrows_the_context_has_not_failed(
    tmp_path: Path, whose: str, ended: tuple[str | None, ...]
) -> None:
    async def outgrow(caller: Caller) -> None:
        long = {"role": "user", "content": "x" * 5000}
        first = (await caller.chat(caller.question)).message.as_message()
        before = [*caller.question, first] if whose == "its own" else []
        with pytest.raises(RolloutFailure):
            await caller.chat([*before, long])
        if whose != "its own":
            await caller.chat([*caller.question, first, {"role": "user", "content": "Sure?"}])

    replica = Replica(options={"max_context_tokens": 3000})
    rollout = asyncio.run(with_calls(tmp_path, replica, outgrow, exit_code=1))

    assert (rollout.status, rollout.truncation_reason, rollout.error_kind) == ended


def test_a_program_cannot_judge_itself_with_its_key(tmp_path: Path) -> None:
    async def cheat(caller: Caller) -> None:
        await caller.play()
        for how in ("verify", "reward", "abandon"):
            with pytest.raises(SessionError, match="ends with the agent's own program"):
                await caller.host.close(
                    caller.opened.session_id,
                    caller.opened.key,
                    Closing(how),  # type: ignore[arg-type]
                )

    assert asyncio.run(with_calls(tmp_path, Replica(), cheat)).reward == 1.0


def test_the_end_of_what_a_failing_program_said_is_the_error(tmp_path: Path) -> None:
    flood = 'import sys; sys.stderr.write("x" * 10**7 + "no such file"); sys.exit(3)'

    rollout = asyncio.run(driven(Replica(), tmp_path, command=program(tmp_path, flood)))

    assert (rollout.status, rollout.error_kind) == ("failed", FailureKind.ENVIRONMENT_ERROR)
    assert rollout.error is not None
    assert rollout.error.startswith("the agent failed: exit code 3: xxx")
    assert rollout.error.endswith("no such file")
    assert len(rollout.error) < 3000


def test_a_program_that_floods_its_output_is_not_held_up(tmp_path: Path) -> None:
    flood = "import sys\nfor _ in range(500): print('x' * 20_000)\nsys.exit(4)"

    rollout = asyncio.run(driven(Replica(), tmp_path, command=program(tmp_path, flood)))

    assert rollout.error == "the agent failed: exit code 4"


def test_a_program_without_policy_calls_is_a_failure_that_says_so(tmp_path: Path) -> None:
    rollout = asyncio.run(driven(Replica(), tmp_path, command=program(tmp_path, "")))

    assert rollout.error_kind == FailureKind.ENVIRONMENT_ERROR
    assert "made no policy call" in (rollout.error or "")


def test_a_command_that_does_not_exist_is_a_failure_that_names_it(tmp_path: Path) -> None:
    rollout = asyncio.run(driven(Replica(), tmp_path, command=["./no-such-agent"]))

    assert rollout.error_kind == FailureKind.ENVIRONMENT_ERROR
    assert "no-such-agent" in (rollout.error or "")


#: Starts a child in its group and one outside of it, and hangs.
HANGS = """
    import os, subprocess, sys, time
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    one, other = subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)
    open("telling", "w").write(f"{os.getpid()} {one.pid} {other.pid}")
    os.rename("telling", "pids")
    time.sleep(600)
"""


def test_at_the_deadline_a_program_is_killed_with_its_children(tmp_path: Path) -> None:
    replica = Replica(timeout_seconds=1.5)

    rollout = asyncio.run(driven(replica, tmp_path, command=program(tmp_path, HANGS)))

    assert rollout.error_kind == FailureKind.ROLLOUT_TIMEOUT
    assert alive(tmp_path) == []


def test_a_cancelled_rollout_kills_its_program(tmp_path: Path) -> None:
    async def cancel() -> None:
        command = program(tmp_path, HANGS)
        rollout = asyncio.ensure_future(driven(Replica(), tmp_path, command=command))
        await there(tmp_path / "pids")
        rollout.cancel()
        await asyncio.wait([rollout])
        assert rollout.cancelled()

    asyncio.run(cancel())
    assert alive(tmp_path) == []


def alive(folder: Path) -> list[int]:
    """Processes of `HANGS` that still run, given a moment to die."""
    processes = []
    for pid in map(int, (folder / "pids").read_text().split()):
        if psutil.pid_exists(pid):
            processes.append(psutil.Process(pid))
    _, running = psutil.wait_procs(processes, timeout=5)
    zombie = psutil.STATUS_ZOMBIE
    return [process.pid for process in running if process.status() != zombie]


def test_a_program_that_gives_up_when_its_session_ends_is_truncated_not_failed(
    tmp_path: Path,
) -> None:
    async def too_many(caller: Caller) -> None:
        await caller.chat(caller.question)
        with pytest.raises(SessionError, match="max_turns"):
            await caller.chat(caller.question)

    replica = Replica(options={"max_turns": 1})
    rollout = asyncio.run(with_calls(tmp_path, replica, too_many, exit_code=1))

    assert (rollout.status, rollout.truncation_reason) == ("truncated", "max_turns")
    assert rollout.reward == 1.0


def test_an_agent_that_failed_of_the_policys_failure_can_be_tried_again(tmp_path: Path) -> None:
    async def generate(request: GenerationRequest) -> Generation:
        raise RolloutFailure(FailureKind.POLICY_UNAVAILABLE, "the policy is gone")

    async def fail(caller: Caller) -> None:
        with pytest.raises(RolloutFailure):
            await caller.chat(caller.question)

    rollout = asyncio.run(with_calls(tmp_path, Replica(generate=generate), fail, exit_code=1))

    assert rollout.error_kind == FailureKind.POLICY_UNAVAILABLE


# Agents behind a URL.


async def served(answer: Callable[[Caller], Awaitable[web.Response]], **config: Any) -> Rollout:
    """The rollout of an agent that is a server in this process."""
    replica = Replica()

    async def run(request: web.Request) -> web.Response:
        body = await request.json()
        assert body["base_url"] == f"http://gateway/sessions/{body['session_id']}/v1"
        state = await replica.host.state(body["session_id"], body["api_key"])
        opened = OpenedSession(
            body["session_id"], body["api_key"], state.rollout_id, state.expires_at
        )
        return await answer(Caller(replica.host, opened, body["task"]))

    app = web.Application()
    app.router.add_post("/run", run)
    server = web.AppRunner(app)
    await server.setup()
    try:
        await web.TCPSite(server, "127.0.0.1", 0).start()
        port = server.addresses[0][1]
        return await driven(replica, Path(), url=f"http://127.0.0.1:{port}/run", **config)
    finally:
        await server.cleanup()


async def play_and_claim(caller: Caller) -> web.Response:
    await caller.play()
    return web.json_response({"reward": 0.25})


def test_a_url_runs_the_rollout_and_its_reward_counts_only_when_that_is_configured() -> None:
    verified = asyncio.run(served(play_and_claim))
    claimed = asyncio.run(served(play_and_claim, reward_from_reply=True))

    assert (verified.status, verified.reward) == ("completed", 1.0)
    assert (claimed.status, claimed.reward) == ("completed", 0.25)


def test_a_url_that_answers_with_an_error_is_a_failure_that_shows_it() -> None:
    async def refuse(caller: Caller) -> web.Response:
        return web.Response(status=418, text="I'm a teapot" + "." * 10_000_000)

    rollout = asyncio.run(served(refuse))

    assert rollout.error_kind == FailureKind.ENVIRONMENT_ERROR
    assert "answered 418: I'm a teapot" in (rollout.error or "")
    assert len(rollout.error or "") < 3000


def test_a_reply_without_the_configured_reward_is_a_failure() -> None:
    async def say_nothing(caller: Caller) -> web.Response:
        await caller.play()
        return web.Response(text="done")

    rollout = asyncio.run(served(say_nothing, reward_from_reply=True))

    assert "no number under 'reward'" in (rollout.error or "")


def test_a_reward_that_was_never_replied_is_not_made_up_by_the_verifier() -> None:
    async def overrun(caller: Caller) -> web.Response:
        with contextlib.suppress(SessionError):
            while True:
                await caller.chat(caller.question)
        return web.Response(status=500)

    rollout = asyncio.run(served(overrun, reward_from_reply=True))

    assert (rollout.status, rollout.reward) == ("failed", None)
    assert "before the agent's reply" in (rollout.error or "")


# Configuration.


@pytest.mark.parametrize(
    ("external", "problem"),
    [
        ({}, "exactly one of command and url"),
        ({"command": ["a"], "url": "http://a"}, "exactly one of command and url"),
        ({"command": ["a"], "reward_from_reply": True}, "needs url"),
    ],
)
def test_an_outside_agent_is_a_command_or_a_url(
    external: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    config = scripted_config(tmp_path, tmp_path / "rows", tmp_path / "requests")
    config["environments"]["arithmetic"] |= {"agent": "external", "external": external}
    with pytest.raises(ConfigError, match=problem):
        load_config(config)


def test_collect_refuses_an_outside_agent_nobody_would_start(tmp_path: Path) -> None:
    from gym_ray.collection import collect

    config = scripted_config(tmp_path, tmp_path / "rows", tmp_path / "requests")
    config["environments"]["arithmetic"]["agent"] = "external"
    with pytest.raises(ConfigError, match=r"external\.command or \.url"):
        collect(config, quiet=True)
