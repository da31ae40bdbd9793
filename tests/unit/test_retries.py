"""The pauses between tries, and the page that says who tries what again."""

import importlib
import inspect
import itertools
import re
from pathlib import Path

import hypothesis
import hypothesis.strategies as st

from gym_ray.client import AsyncRolloutClient, ledger, transport
from gym_ray.config.commands import CollectConfig
from gym_ray.config.environment import VerificationConfig
from gym_ray.config.policy import JudgeConfig, PolicyConfig
from gym_ray.errors import RETRYABLE, pauses
from gym_ray.policies import judging
from gym_ray.policies.openai import OpenAIArgs
from gym_ray.policies.openai import transport as remote
from gym_ray.reverification import reverify_stage
from gym_ray.serving import environment_client, session_client
from gym_ray.verifiers.pool import VerifierPool

# `gym_ray.hub.push` is the function.
push = importlib.import_module("gym_ray.hub.push")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "retries.md").read_text()
ROWS = {
    cells[0].strip("`"): cells
    for line in re.findall(r"^\| (?!who|--)(.*) \|$", PAGE, re.M)
    if (cells := line.split(" | "))
}


@hypothesis.given(first=st.floats(0.0, 10.0), most=st.floats(0.0, 100.0), tries=st.integers(1, 12))
def test_pauses_double_up_to_the_most_and_are_drawn(first: float, most: float, tries: int) -> None:
    drawn = list(itertools.islice(pauses(first, most), tries))

    assert len(drawn) == tries
    for number, pause in enumerate(drawn):
        middle = min(first * 2**number, most)
        assert 0.5 * middle <= pause <= 1.5 * middle


def test_callers_who_fail_together_do_not_return_together() -> None:
    first = {next(pauses(1.0, 8.0)) for _ in range(100)}

    assert len(first) > 50
    assert min(first) < 0.8
    assert max(first) > 1.2


def test_the_page_has_the_pauses_of_the_code() -> None:
    bounds = {
        "collect`, `/run`, `/batches": (
            environment_client._BACKOFF_SECONDS,
            environment_client._BACKOFF_MAXIMUM_SECONDS,
        ),
        "reverify": (reverify_stage._BACKOFF_SECONDS, reverify_stage._BACKOFF_MAXIMUM_SECONDS),
        "remote policy": (remote._BACKOFF_SECONDS, remote._BACKOFF_MAXIMUM_SECONDS),
        "judge": (judging.BACKOFF_SECONDS, judging._BACKOFF_MAXIMUM_SECONDS),
        "session call": (session_client._BACKOFF_SECONDS, session_client._BACKOFF_MAXIMUM_SECONDS),
        "RolloutClient": (transport._PAUSE_SECONDS, transport._PAUSE_MAXIMUM_SECONDS),
        "RolloutClient.wait_ready": (transport._PAUSE_SECONDS, transport._READY_PAUSE_SECONDS),
        "hub push": (push._COMMIT_WAIT_SECONDS, push._COMMIT_WAIT_MAXIMUM_SECONDS),
    }
    written = {who: tuple(map(float, ROWS[who][4].split(" to "))) for who in bounds}

    assert written == bounds
    # No module that calls `pauses` is missing; the client does it twice.
    callers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "gym_ray").rglob("*.py")
        if "pauses(" in path.read_text() and path.name != "errors.py"
    }
    assert len(callers) == len(bounds) - 1, callers


def test_the_page_has_the_tries_and_deadlines_of_the_code() -> None:
    collect, verification = CollectConfig(), VerificationConfig()
    remote_args = OpenAIArgs(base_urls=("http://127.0.0.1:1/v1",))
    client = inspect.signature(AsyncRolloutClient).parameters["max_retries"].default
    waiting = inspect.signature(VerifierPool).parameters["queue_timeout_seconds"].default
    judge = JudgeConfig()

    assert [
        f"`{kind}`"
        for kind in RETRYABLE
        if f"`{kind}`" not in ROWS["collect`, `/run`, `/batches"][2]
    ] == []
    assert f"({collect.max_attempts})" in ROWS["collect`, `/run`, `/batches"][3]
    assert f"({collect.rollout_timeout_seconds:g} s)" in ROWS["collect`, `/run`, `/batches"][5]
    assert f"({collect.max_attempts})" in ROWS["reverify"][3]
    assert f"({remote_args.max_retries}) + 1" in ROWS["remote policy"][3]
    assert f"({PolicyConfig().request_timeout_seconds:g} s)" in ROWS["remote policy"][5]
    assert {f"{status}" for status in remote._AGAIN} <= set(re.findall(r"\d{3}", PAGE))
    assert f"({remote_args.outage_seconds:g} s)" in ROWS["outage of a remote policy"][5]
    assert f"({judge.max_retries}) + 1" in ROWS["judge"][3]
    assert f"({verification.timeout_seconds:g} s)" in ROWS["judge"][5]
    assert f"at most {waiting:g} s" in ROWS["verifier process"][5]
    assert ROWS["session call"][3] == str(session_client._TRIES)
    assert f"({client}) + 1" in ROWS["RolloutClient"][3]
    assert set(re.findall(r"\d{3}", ROWS["RolloutClient"][2])) == set(
        map(str, transport._TRANSIENT)
    )
    start = ROWS["RolloutClient`, start of the service"][5]
    assert start.startswith(f"{transport._START_SECONDS:g} s, ")
    ready = inspect.signature(AsyncRolloutClient.wait_ready).parameters["timeout_seconds"].default
    assert f"({ready:g} s)" in ROWS["RolloutClient.wait_ready"][5]
    assert f"up to {transport._RETRY_AFTER_MAXIMUM_SECONDS:g} s" in PAGE
    assert ROWS["RolloutClient`, batch"][3] == str(ledger.REOPENINGS)
    assert ROWS["hub push"][3] == str(push._COMMIT_TRIES)
