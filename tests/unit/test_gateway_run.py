"""`/run` and `/run/bulk` in process: statuses, routing, order, bounds, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from gym_ray.config.sections import EnvironmentConfig
from gym_ray.errors import FailureKind
from gym_ray.gateway.bulk import bulk_router
from gym_ray.gateway.run import run_router
from gym_ray.renderers.items import items_from_message
from gym_ray.renderers.messages import AssistantMessage
from gym_ray.rollout import Rollout, RolloutSpec, failed_rollout
from gym_ray.routing import Router

MakeRow = Callable[..., dict[str, Any]]


class Backend:
    """Answers with what a row's field says.

    `fail`: a failure kind; `wait`: do not end before `release` is called.
    """

    def __init__(self, make_rollout: Callable[..., Rollout]) -> None:
        self.specs: list[RolloutSpec] = []
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self._make_rollout = make_rollout
        self._released: asyncio.Event | None = None

    def release(self) -> None:
        self._event.set()

    async def run(self, spec: RolloutSpec) -> Rollout:
        self.specs.append(spec)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        row = json.loads(spec.task)
        try:
            await asyncio.sleep(0)
            if row.get("wait"):
                await self._event.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if "fail" in row:
            return failed_rollout(spec, FailureKind(row["fail"]), "it broke", run_id="run")
        items = items_from_message(AssistantMessage("4"), item_id_prefix=f"{spec.rollout_id}-0")
        return self._make_rollout(spec=spec, response=json.dumps(items))

    @property
    def _event(self) -> asyncio.Event:
        if self._released is None:
            self._released = asyncio.Event()
        return self._released


@pytest.fixture
def backend(make_rollout: Callable[..., Rollout]) -> Backend:
    return Backend(make_rollout)


@pytest.fixture
def app(backend: Backend) -> FastAPI:
    tasks = Router({"sums": EnvironmentConfig(agent_refs=["adder"]), "words": EnvironmentConfig()})
    app = FastAPI()
    app.include_router(run_router(backend, tasks))
    app.include_router(bulk_router(backend, tasks, max_in_flight=4, max_line_bytes=1000))
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
        (b"[]", "must be an object"),
        (b"{}", "has no 'responses_create_params'"),
        (b'{"responses_create_params": {"input": "?"}}', "has no agent_ref"),
        (b'{"responses_create_params": {"input": "?"}, "agent_ref": "ader"}', "did you mean"),
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


def test_bulk_answers_every_row_once_and_a_bad_line_costs_only_itself(
    client: TestClient, backend: Backend, make_row: MakeRow
) -> None:
    good = [json.dumps(make_row(f"{n} + 1", agent_ref="adder", n=n)) for n in range(20)]
    failing = json.dumps(make_row("?", agent_ref="adder", fail="verifier_error"))
    long = json.dumps(make_row("x" * 5000, agent_ref="adder"))
    lines = ["{nonsense", *good[:10], "", failing, long, "  ", *good[10:]]

    answer = client.post("/run/bulk", content="\n".join(lines))

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    results = {line["index"]: line for line in map(json.loads, answer.text.splitlines())}
    assert sorted(results) == list(range(23))
    errors = {index: line["error"]["code"] for index, line in results.items() if "error" in line}
    assert errors == {0: "task_invalid", 11: "verifier_error", 12: "task_invalid"}
    assert [results[index]["result"]["n"] for index in range(1, 11)] == list(range(10))
    assert [results[index]["result"]["n"] for index in range(13, 23)] == list(range(10, 20))
    assert backend.most_running <= 4


def test_bulk_of_nothing_is_an_empty_answer(client: TestClient) -> None:
    assert client.post("/run/bulk", content=b"\n\n").text == ""


class Exchange:
    """One bulk request whose body is sent and whose answer is read piece by piece."""

    def __init__(self, app: FastAPI) -> None:
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.taken = 0
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/run/bulk",
            "headers": [],
            "query_string": b"",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self.outgoing.put))

    def send(self, row: dict[str, Any] | None) -> None:
        """A line of the body; None ends it."""
        body = b"" if row is None else json.dumps(row).encode() + b"\n"
        message = {"type": "http.request", "body": body, "more_body": row is not None}
        self._incoming.put_nowait(message)

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def line(self) -> dict[str, Any]:
        """The next line of the answer."""
        while (message := await self.outgoing.get())["type"] != "http.response.body":
            pass
        found: dict[str, Any] = json.loads(message["body"])
        return found

    async def _receive(self) -> dict[str, Any]:
        message = await self._incoming.get()
        self.taken += 1
        return message


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.fixture
def exchange(app: FastAPI) -> Callable[[Callable[[Exchange], Awaitable[None]]], None]:
    """Plays one bulk exchange on an event loop."""

    def play(scene: Callable[[Exchange], Awaitable[None]]) -> None:
        async def run() -> None:
            async with asyncio.timeout(5):
                opened = Exchange(app)
                try:
                    await scene(opened)
                finally:
                    opened.task.cancel()
                    await asyncio.gather(opened.task, return_exceptions=True)

        asyncio.run(run())

    return play


def test_bulk_results_come_while_rows_are_still_being_sent(
    exchange: Any, make_row: MakeRow
) -> None:
    async def scene(opened: Exchange) -> None:
        for n in range(6):
            opened.send(make_row("2 + 2", agent_ref="adder", n=n))
            assert (await opened.line())["result"]["n"] == n
        opened.send(None)
        await opened.task

    exchange(scene)


def test_bulk_reads_rows_only_as_there_is_room(
    exchange: Any, backend: Backend, make_row: MakeRow
) -> None:
    async def scene(opened: Exchange) -> None:
        for _ in range(20):
            opened.send(make_row("2 + 2", agent_ref="adder", wait=True))
        opened.send(None)
        await eventually(lambda: backend.running == 4)
        for _ in range(20):
            await asyncio.sleep(0)
        # Four run, and one is at the door.
        assert opened.taken == 5
        backend.release()
        assert sorted([(await opened.line())["index"] for _ in range(20)]) == list(range(20))

    exchange(scene)


@pytest.mark.parametrize("whole_body_sent", [True, False])
def test_a_bulk_client_that_leaves_gives_up_what_runs(
    exchange: Any, backend: Backend, make_row: MakeRow, whole_body_sent: bool
) -> None:
    async def scene(opened: Exchange) -> None:
        for _ in range(3):
            opened.send(make_row("2 + 2", agent_ref="adder", wait=True))
        if whole_body_sent:
            opened.send(None)
        await eventually(lambda: backend.running == 3)
        opened.leave()
        await opened.task
        await eventually(lambda: backend.cancelled == 3)

    exchange(scene)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_row_in_another_encoding_is_refused_not_run(
    app: FastAPI, backend: Backend, encoding: str
) -> None:
    row = json.dumps({"responses_create_params": {"input": "hi"}, "agent_ref": "sums"})
    with TestClient(app) as client:
        answer = client.post("/run", content=row.encode(encoding))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "task_invalid")
    assert backend.specs == []
