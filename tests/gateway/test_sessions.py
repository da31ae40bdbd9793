"""Sessions over HTTP: what an agent that knows OpenAI's SDK and two more routes can do."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gym_ray.serving.recorder import RecordTarget
from gym_ray.store.rows import broken_invariants
from gym_ray.store.stored_run import read_rollouts
from tests.gateway.policies import MODEL
from tests.gateway.session_server import (
    KEY,
    Replicas,
    ask,
    call,
    client_of,
    code_of,
    of,
    opened,
    prompt_of,
    serving_sessions,
)
from tests.outside_agent import play
from tests.replies import tool_calls
from tests.sessions import Replica, sum_row


@pytest.fixture
def replicas(tmp_path: Path) -> Replicas:
    return Replicas(RecordTarget(str(tmp_path), "run"))


@pytest.fixture
def url(replicas: Replicas) -> Iterator[str]:
    with serving_sessions(replicas) as url:
        yield url


def test_an_agent_with_openais_client_leaves_the_row_of_the_built_in_agent(
    url: str, tmp_path: Path
) -> None:
    row = sum_row(tool_calls(("add", {"a": 1, "b": 1}), ("add", {"a": 5, "b": 5})), "3")
    session = opened(url, row)
    with client_of(session) as client:
        play(client, row)

    status, result = call("POST", of(url, session, "/verify"), session["key"])

    assert (status, result["status"], result["reward"]) == (200, "completed", 1.0)
    # Durable before it is told.
    (rollout,) = read_rollouts(tmp_path)
    assert broken_invariants([rollout]) == []
    assert rollout.spec.rollout_id == result["rollout_id"] == session["rollout_id"]
    built_in = asyncio.run(Replica().built_in(row))
    assert rollout.token_ids.tolist() == built_in.token_ids.tolist()
    assert rollout.loss_mask.tolist() == built_in.loss_mask.tolist()
    assert rollout.side_branches == ()


def test_a_session_tells_how_it_stands_before_and_after_its_end(url: str) -> None:
    row = sum_row("4")
    session = opened(url, row)
    with client_of(session) as client:
        ask(client, prompt_of(row))

    _, before = call("GET", of(url, session), session["key"])
    call("POST", of(url, session, "/verify"), session["key"])
    _, after = call("GET", of(url, session), session["key"])

    assert (before["open"], before["turns"], before["status"]) == (True, 1, None)
    assert before["expires_at"][:16] == session["expires_at"][:16]
    assert (after["open"], after["status"], after["reward"]) == (False, "completed", 0.0)


def test_a_reward_from_outside_closes_a_session(url: str, tmp_path: Path) -> None:
    row = sum_row("4")
    session = opened(url, row)
    with client_of(session) as client:
        ask(client, prompt_of(row))
    bad = {"reward": 1.0, "reward_components": {"a": 0.25}}
    good = {"reward": 1.0, "reward_components": {"a": 0.25, "b": 0.75}}

    status, answer = call("POST", of(url, session, "/reward"), session["key"], bad)
    assert (status, answer["error"]["param"]) == (400, "reward_components")
    _, result = call("POST", of(url, session, "/reward"), session["key"], good)

    assert (result["reward"], result["reward_components"]) == (1.0, good["reward_components"])
    assert next(iter(read_rollouts(tmp_path))).reward == 1.0


def test_an_abandoned_session_is_recorded_as_cancelled(url: str, tmp_path: Path) -> None:
    session = opened(url, sum_row("4"))

    status, result = call("DELETE", of(url, session), session["key"])

    assert (status, result["status"], result["error_kind"]) == (200, "failed", "cancelled")
    assert next(iter(read_rollouts(tmp_path))).error_kind == "cancelled"


def test_a_session_answers_to_its_own_key_alone(url: str) -> None:
    mine, other = opened(url, sum_row("4")), opened(url, sum_row("4"))
    routes = [
        ("GET", ""), ("DELETE", ""), ("POST", "/verify"), ("POST", "/reward"),
        ("GET", "/v1/models"), ("POST", "/v1/chat/completions"),
        ("POST", "/v1/responses"), ("POST", "/v1/completions"),
    ]  # fmt: skip
    for method, route in routes:
        body = {"reward": 1.0} if method == "POST" else None
        assert call(method, of(url, mine, route), None, body)[0] == 401, route
        refused = [call(method, of(url, mine, route), key, body) for key in (other["key"], KEY)]
        unknown = call(method, of(url, {"id": "sums.first.0"}, route), other["key"], body)
        assert refused[0] == refused[1] == unknown, route
        assert code_of(unknown) == (404, "session_unknown"), route
    assert call("GET", of(url, mine), mine["key"])[1]["open"]
    assert call("GET", f"{url}/v1/models", mine["key"])[0] == 401
    assert call("POST", f"{url}/sessions", mine["key"], {"task": sum_row("4")})[0] == 401


def test_a_lost_replica_took_its_sessions_with_it(url: str, replicas: Replicas) -> None:
    row = sum_row("4")
    session = opened(url, row)
    with client_of(session) as client:
        ask(client, prompt_of(row))
        replicas.lose()
        with pytest.raises(openai.APIStatusError) as lost:
            ask(client, prompt_of(row))

    assert lost.value.status_code == 410
    for method, route in (("GET", ""), ("POST", "/verify"), ("DELETE", "")):
        gone = call(method, of(url, session, route), session["key"])
        assert code_of(gone) == (410, "session_gone")


def test_an_expired_session_is_verified_and_refuses_further_calls(
    url: str, replicas: Replicas, tmp_path: Path
) -> None:
    replicas.seconds = 2.0
    row = sum_row("3")
    session = opened(url, row)
    with client_of(session) as client:
        ask(client, prompt_of(row))
        until_ended(url, session)
        with pytest.raises(openai.BadRequestError, match="deadline") as ended:
            ask(client, prompt_of(row))

    assert ended.value.code == "session_ended"
    status, result = call("POST", of(url, session, "/verify"), session["key"])
    assert (status, result["truncation_reason"], result["reward"]) == (200, "deadline", 1.0)
    assert next(iter(read_rollouts(tmp_path))).truncation_reason == "deadline"


def until_ended(url: str, session: dict[str, Any]) -> None:
    from tests.cluster import until

    def ended() -> bool:
        return call("GET", of(url, session), session["key"])[1]["status"] is not None

    until(ended, 20, "the session has ended")


def test_parallel_conversations_and_edits_become_branches(url: str, tmp_path: Path) -> None:
    row = sum_row("3")
    session = opened(url, row)
    with client_of(session) as client, concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: ask(client, prompt_of(row)), range(4)))

    call("POST", of(url, session, "/verify"), session["key"])

    (rollout,) = read_rollouts(tmp_path)
    assert (len(rollout.turns), len(rollout.side_branches)) == (1, 3)


def test_a_call_may_ask_for_tokens_and_streams_like_any_other(url: str) -> None:
    row = sum_row("3")
    session = opened(url, row)
    messages: Any = [{"role": "user", "content": prompt_of(row)}]
    with client_of(session) as client:
        whole = client.chat.completions.create(
            model=MODEL, messages=messages, extra_body={"return_token_ids": True}
        )
        parts = list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))

    assert whole.choices[0].message.content == "3"
    assert whole.choices[0].message.model_extra["generation_token_ids"]
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == "3"
    assert call("GET", of(url, session), session["key"])[1]["turns"] == 2


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "task"),
        ({"task": {"responses_create_params": {}}, "environment": "sums"}, "has no 'input'"),
        ({"task": sum_row("4"), "environment": "summs"}, "no environment 'summs'"),
        ({"task": sum_row("4", agent_ref="nobody")}, "no environment answers to"),
        ({"task": sum_row("4", agent_ref=4)}, "agent_ref"),
    ],
)
def test_a_session_for_no_legal_task_is_refused(
    url: str, body: dict[str, Any], problem: str
) -> None:
    status, answer = call("POST", f"{url}/sessions", KEY, body)

    assert status == 400
    assert problem in answer["error"]["message"]


def test_any_model_name_will_do_in_a_session_and_only_there(url: str) -> None:
    session = opened(url, sum_row("3"))
    messages: Any = [{"role": "user", "content": prompt_of(sum_row("3"))}]
    with client_of(session) as client:
        said = client.chat.completions.create(model="gpt-4o", messages=messages)
        answer = client.responses.create(model="gpt-4o", input='replies: ["3"]')
        client.completions.create(model="gpt-4o", prompt=f"{messages[0]['content']}<|im_end|>")
        assert client.models.retrieve("gpt-4o").id == MODEL
    assert (said.choices[0].message.content, said.model, answer.model) == ("3", MODEL, MODEL)

    body = {"model": "gpt-4o", "messages": messages}
    refused = call("POST", f"{url}/v1/chat/completions", KEY, body)
    assert code_of(refused) == (404, "model_not_found")


def test_a_call_without_a_limit_has_the_sessions_not_the_gateways(url: str) -> None:
    long = "x" * 1000  # The gateway's own sampling ends at 512 tokens, the session's at 2000.
    session = opened(url, sum_row(long))
    with client_of(session) as client:
        assert ask(client, prompt_of(sum_row(long))).choices[0].message.content == long
