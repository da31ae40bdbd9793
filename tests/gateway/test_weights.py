"""`/weights`: who may call it, and what its answers are."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import gym_ray
from gym_ray.errors import GymRayError
from gym_ray.gateway.app import GatewaySettings, create_app
from gym_ray.gateway.weights import weights_router
from gym_ray.policies.weights import RefusedUpdate, ReplicaWeights, WeightsReport, WeightsUpdate
from tests.gateway.conftest import KEY, serving
from tests.gateway.policies import token_policy

ADMIN_KEY = "the-admins"
UPDATE = {"version": 1, "source": "/weights/1"}
REPORT = WeightsReport(1, "/weights/1", "sha256:0", (ReplicaWeights("a", 1),), changed=True)


class Weights:
    """Answers what it is given."""

    def __init__(self) -> None:
        self.outcome: WeightsReport | RefusedUpdate | GymRayError = REPORT
        self.updates: list[WeightsUpdate] = []

    async def weights(self) -> WeightsReport:
        if isinstance(self.outcome, GymRayError):
            raise self.outcome
        return REPORT

    async def update_weights(self, update: WeightsUpdate) -> WeightsReport | RefusedUpdate:
        self.updates.append(update)
        if isinstance(self.outcome, GymRayError):
            raise self.outcome
        return self.outcome


@contextlib.contextmanager
def gateway(
    backend: Weights, *, api_key: str | None = KEY, admin_key: str | None = ADMIN_KEY
) -> Iterator[httpx.Client]:
    settings = GatewaySettings(api_key=api_key, admin_key=admin_key)
    app = create_app(
        policy=token_policy(context_length=2048)[0],
        settings=settings,
        routers=[weights_router(backend)],
    )
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with serving(app) as url, httpx.Client(base_url=url, headers=headers, timeout=30) as http:
        yield http


def test_only_the_admin_key_opens_it_and_it_opens_nothing_else() -> None:
    backend = Weights()
    with gateway(backend) as http:
        for key in ("", "Bearer wrong", f"Bearer {KEY}", ADMIN_KEY):
            for path in ("/weights", "/weights/"):
                answer = http.post(path, json=UPDATE, headers={"Authorization": key})
                assert answer.status_code == 401
                assert "admin key" in answer.json()["error"]["message"]
        assert not backend.updates
        assert http.get("/v1/models").status_code == 401
        assert http.get("/weights").json() == REPORT.to_json()


@pytest.mark.parametrize("api_key", [None, KEY])
def test_without_an_admin_key_it_is_closed_even_where_nothing_else_is(api_key: str | None) -> None:
    backend = Weights()
    with gateway(backend, api_key=api_key, admin_key=None) as http:
        for key in ("", f"Bearer {KEY}", "Bearer"):
            answer = http.post("/weights", json=UPDATE, headers={"Authorization": key})
            assert answer.status_code == 403
            assert "admin_key_env" in answer.json()["error"]["message"]
    assert not backend.updates


def test_an_update_is_passed_on_and_its_report_answered() -> None:
    backend = Weights()
    with gateway(backend) as http:
        answer = http.post("/weights", json={**UPDATE, "mode": "drain"})

    assert (answer.status_code, answer.json()) == (200, REPORT.to_json())
    assert backend.updates == [WeightsUpdate(version=1, source="/weights/1", mode="drain")]


FAILED = dataclasses.replace(
    REPORT, replicas=(ReplicaWeights("a", 1), ReplicaWeights("b", 0, error="no disk"))
)


@pytest.mark.parametrize(
    ("outcome", "status", "code", "says"),
    [
        (RefusedUpdate("version_conflict", "too old"), 409, "version_conflict", "too old"),
        (RefusedUpdate("busy", "another"), 409, "busy", "another"),
        (RefusedUpdate("not_updatable", "remote"), 409, "not_updatable", "remote"),
        (RefusedUpdate("wrong_source", "torn"), 400, "wrong_source", "torn"),
        (GymRayError("b does not answer"), 503, "incomplete", "b does not answer"),
        (FAILED, 503, "replicas_failed", "1 of 2 replicas .* b: no disk"),
    ],
)
def test_what_did_not_come_to_be_has_a_status_and_a_reason(
    outcome: Any, status: int, code: str, says: str
) -> None:
    backend = Weights()
    backend.outcome = outcome
    with gateway(backend) as http:
        answer = http.post("/weights", json=UPDATE)

    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (status, code)
    assert re.search(says, body["error"]["message"])
    if outcome is FAILED:
        assert body["report"] == FAILED.to_json()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({**UPDATE, "version": 0}, "version"),
        ({**UPDATE, "vresion": 1}, "vresion"),
        ({"version": 1}, "source"),
    ],
)
def test_a_wrong_update_is_told_by_its_field(body: dict[str, Any], param: str) -> None:
    backend = Weights()
    with gateway(backend) as http:
        answer = http.post("/weights", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not backend.updates


def test_the_client_updates_and_reads_the_report() -> None:
    backend = Weights()
    with gateway(backend) as http:
        url = str(http.base_url)
        with gym_ray.RolloutClient(url, api_key=KEY, admin_key=ADMIN_KEY) as client:
            assert client.update_weights(1, "/weights/1", mode="drain") == REPORT
        assert backend.updates == [WeightsUpdate(version=1, source="/weights/1", mode="drain")]

        backend.outcome = RefusedUpdate("version_conflict", "it has version 3")
        with (
            gym_ray.RolloutClient(url, api_key=KEY, admin_key=ADMIN_KEY) as client,
            pytest.raises(gym_ray.client.UpdateRefused, match="it has version 3"),
        ):
            client.update_weights(1, "/weights/1")
        with (
            gym_ray.RolloutClient(url, api_key=KEY, admin_key="guess") as client,
            pytest.raises(gym_ray.client.Unauthorized, match="GYM_RAY_ADMIN_KEY"),
        ):
            client.update_weights(1, "/weights/1")


def test_the_client_tries_again_while_an_update_is_not_complete() -> None:
    backend = Weights()
    backend.outcome = GymRayError("replica b does not answer")
    with gateway(backend) as http:
        url = str(http.base_url)
        with (
            gym_ray.RolloutClient(url, admin_key=ADMIN_KEY, max_retries=2) as client,
            pytest.raises(gym_ray.client.ServiceUnavailable, match="b does not answer"),
        ):
            client.update_weights(1, "/weights/1")
    assert len(backend.updates) == 3


def test_a_replica_that_does_not_say_what_it_has_is_no_fault_of_the_gateways() -> None:
    backend = Weights()
    backend.outcome = GymRayError("replica b does not answer")
    with gateway(backend) as http:
        answer = http.get("/weights")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "incomplete")
