"""`/run` in process: statuses, routing, and what is echoed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from gym_ray.config.environment import EnvironmentConfig
from gym_ray.errors import FailureKind
from gym_ray.gateway.run import run_router
from gym_ray.renderers.items import items_from_message
from gym_ray.renderers.messages import AssistantMessage
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout
from gym_ray.routing import Router

MakeRow = Callable[..., dict[str, Any]]


class Backend:
    """Answers with what a row's field `fail` says, a failure kind."""

    def __init__(self, make_rollout: Callable[..., Rollout]) -> None:
        self.specs: list[RolloutSpec] = []
        self._make_rollout = make_rollout

    async def run(self, spec: RolloutSpec) -> Rollout:
        self.specs.append(spec)
        row = json.loads(spec.task)
        if "fail" in row:
            return failed_rollout(spec, FailureKind(row["fail"]), "it broke", run_id="run")
        items = items_from_message(AssistantMessage("4"), item_id_prefix=f"{spec.rollout_id}-0")
        return self._make_rollout(spec=spec, response=json.dumps(items))


@pytest.fixture
def backend(make_rollout: Callable[..., Rollout]) -> Backend:
    return Backend(make_rollout)


@pytest.fixture
def app(backend: Backend) -> FastAPI:
    tasks = Router({"sums": EnvironmentConfig(agent_refs=["adder"]), "words": EnvironmentConfig()})
    app = FastAPI()
    app.include_router(run_router(backend, tasks))
    return app


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app)


def test_a_row_comes_back_with_reward_and_tokens(
    client: TestClient, backend: Backend, make_row: MakeRow
) -> None:
    row = make_row("2 + 2", agent_ref="adder", expected_answer="4")

    answer = client.post("/run", json=row)

    assert answer.status_code == 200
    result = answer.json()
    assert result["reward"] == 1.0
    assert result["expected_answer"] == "4"
    assert result["agent_ref"]["name"] == "adder"
    assert result["response"]["output"][-1]["generation_token_ids"] == [0, 0]
    assert "_ng_task_index" not in result
    assert backend.specs[0].environment == "sums"
    assert json.loads(backend.specs[0].task) == row


@pytest.mark.parametrize(
    ("fields", "environment"),
    [
        ({"task_source": "adder"}, "sums"),
        ({"task_source": "words"}, "words"),
        ({"task_source": "words", "agent_ref": "adder"}, "sums"),
        ({"task_source": 3, "agent_ref": "adder"}, "sums"),
    ],
)
def test_a_source_stands_for_an_agent_that_a_row_does_not_name(
    client: TestClient,
    backend: Backend,
    make_row: MakeRow,
    fields: dict[str, Any],
    environment: str,
) -> None:
    row = make_row("2 + 2")
    row.pop("agent_ref", None)

    result = client.post("/run", json={**row, **fields}).json()

    assert backend.specs[0].environment == environment
    assert result["task_source"] == fields["task_source"]


def test_indices_of_the_caller_are_echoed(client: TestClient, make_row: MakeRow) -> None:
    row = make_row("2 + 2", agent_ref="adder", _ng_task_index=7, _ng_rollout_index=2, _rowidx=1)

    result = client.post("/run", json=row).json()

    assert (result["_ng_task_index"], result["_ng_rollout_index"], result["_rowidx"]) == (7, 2, 1)


def test_the_same_row_asked_for_twice_is_two_rollouts(
    client: TestClient, backend: Backend, make_row: MakeRow
) -> None:
    for _ in range(2):
        client.post("/run", json=make_row("2 + 2", agent_ref="adder"))

    first, second = backend.specs
    assert first.task_id == second.task_id
    assert first.rollout_id != second.rollout_id


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff", "is not UTF-8"),
        (b'{"expected_answer": "4", "expected_answer": "5"}', "has field 'expected_answer' twice"),
        (b'{"responses_create_params": {"input": "?"}, "level": NaN}', "NaN is no JSON number"),
        (b"[]", "must be an object"),
        (b"{}", "has no 'responses_create_params'"),
        (b'{"responses_create_params": {"input": "?"}}', "has no agent_ref"),
        (b'{"responses_create_params": {"input": "?"}, "agent_ref": "ader"}', "did you mean"),
        (b'{"responses_create_params": {"input": "?"}, "task_source": "ader"}', "did you mean"),
        (b'{"responses_create_params": {"input": "?"}, "task_source": 3}', "has no agent_ref"),
        (b'{"responses_create_params": {"input": "\\ud800"}, "agent_ref": "sums"}', "surrogate"),
        (b'{"responses_create_params": {"input": "?"}, "a":' + b"[" * 10**5, "is not JSON"),
    ],
)
def test_what_is_no_task_is_a_bad_request(client: TestClient, body: bytes, message: str) -> None:
    answer = client.post("/run", content=body)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"] or "nested too deeply" in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "task_invalid")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("policy_rejected", 400),
        ("task_invalid", 400),
        ("policy_unavailable", 503),
        ("policy_error", 503),
        ("environment_unavailable", 503),
        ("sandbox_error", 503),
        ("rollout_timeout", 504),
        ("environment_error", 422),
        ("verifier_error", 422),
        ("verifier_timeout", 422),
    ],
)
def test_failures_have_the_status_of_who_can_do_something(
    client: TestClient, make_row: MakeRow, kind: str, status: int
) -> None:
    answer = client.post("/run", json=make_row("2 + 2", agent_ref="adder", fail=kind))

    assert answer.status_code == status
    assert answer.json()["error"]["code"] == kind
    assert answer.json()["error"]["message"] == "it broke"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_row_in_another_encoding_is_refused_not_run(
    app: FastAPI, backend: Backend, encoding: str
) -> None:
    row = json.dumps({"responses_create_params": {"input": "hi"}, "agent_ref": "sums"})
    with TestClient(app) as client:
        answer = client.post("/run", content=row.encode(encoding))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "task_invalid")
    assert backend.specs == []
