"""What serving decides before, or without, a cluster."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ray.exceptions import ActorDiedError

from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError, FailureKind, GymRayError, RolloutFailure
from gym_ray.policies.engine import PolicyInfo
from gym_ray.runner import RunSettings
from gym_ray.sampling import Sampling
from gym_ray.serving.application import wait_until_running
from gym_ray.serving.cluster import connect
from gym_ray.serving.gateway import GatewayPlan
from gym_ray.serving.policy_renderer import check_renderer
from gym_ray.serving.recorder import RecordTarget
from gym_ray.serving.session_client import SessionClient
from tests.sessions import spec_of, sum_row

SERVED = {"policy": {"engine": "scripted"}, "environments": {"math": {}}}


def test_a_gateway_says_where_it_records_not_where_its_config_would(tmp_path: Path) -> None:
    config = load_config({**SERVED, "serve": {"output": str(tmp_path)}})
    info = PolicyInfo("scripted", "1", "m", "f", 100, 0)
    plan = GatewayPlan(config, "core", info, "run")
    recording = GatewayPlan(config, "core", info, "run", RecordTarget(str(tmp_path), "run"))

    assert plan.in_force()["serve.output"] is None
    assert recording.in_force()["serve.output"] == str(tmp_path)


def test_an_outside_agent_of_a_policy_that_tells_no_tokens_is_refused_at_the_start() -> None:
    policy = {"engine": "openai", "engine_args": {"base_urls": ["http://h/v1"], "api": "chat"}}
    external = {"agent": "external", "external": {"command": ["true"]}}
    config = load_config({"policy": policy, "environments": {"math": external}})

    with pytest.raises(ConfigError, match=r"environments\.math\.agent external needs a policy"):
        check_renderer(config)


class Dying:
    """A handle of a replica that dies under every call."""

    def remote(self, *arguments: Any) -> Any:
        async def answer() -> None:
            raise ActorDiedError

        return answer()


class Environment:
    open_session = Dying()


def test_a_replica_lost_while_it_opens_a_session_is_worth_another_try() -> None:
    client = SessionClient(
        {"sums": Environment()},
        RunSettings("run", Sampling(), 1.0),
        None,
        start_seconds=1.0,
        call_seconds=1.0,
        verify_seconds=1.0,
    )
    with pytest.raises(RolloutFailure) as caught:
        asyncio.run(client.open(spec_of(sum_row("3"))))
    assert caught.value.kind == FailureKind.ENVIRONMENT_UNAVAILABLE


@pytest.mark.parametrize(("failures", "starts"), [(0, 1), (2, 3), (3, 3)])
def test_a_busy_machine_gets_ray_started_all_the_same(
    monkeypatch: pytest.MonkeyPatch, failures: int, starts: int
) -> None:
    said = "The current node timed out during startup."
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    init = mock.Mock(side_effect=[*[Exception(said)] * failures, None])
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", mock.Mock())
    monkeypatch.setattr("ray.cluster_resources", dict)
    config = load_config(SERVED)

    if failures == 3:
        with pytest.raises(GymRayError, match=r"Ray does not start on this machine: .*The current"):
            connect(config)
    else:
        assert connect(config).started
    assert init.call_count == starts


def test_an_application_that_loses_a_replica_while_it_starts_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Serve replaces the replica; one that cannot start at all is the end."""

    def status(state: str) -> Any:
        application = SimpleNamespace(status=state, deployments={}, message="no such module")
        return SimpleNamespace(applications={"app": application})

    states = iter(["DEPLOYING", "UNHEALTHY", "UNHEALTHY", "RUNNING", "DEPLOY_FAILED"])
    monkeypatch.setattr("ray.serve.status", lambda: status(next(states)))
    monkeypatch.setattr("gym_ray.serving.application._POLL_SECONDS", 0.0)

    wait_until_running("app", 60.0, lambda line: None, lambda: None)
    with pytest.raises(GymRayError, match=r"cannot start: .*no such module"):
        wait_until_running("app", 60.0, lambda line: None, lambda: None)


@pytest.mark.parametrize("kind", ["ConfigError", "GymRayError"])
def test_a_replica_that_says_why_it_cannot_start_is_not_started_thrice(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    quoted = (
        "A replica failed to start with exception. Retrying 2 more time(s). Error:\n"
        "Traceback (most recent call last):\n  File ...\nRuntimeError: no file\n\n"
        f"The above exception was the direct cause of ...\n\ngym_ray.errors.{kind}: no model\n"
    )
    policy = SimpleNamespace(status="UPDATING", message=quoted)
    application = SimpleNamespace(status="DEPLOYING", deployments={"policy": policy}, message="")
    status = SimpleNamespace(applications={"app": application})
    monkeypatch.setattr("ray.serve.status", lambda: status)

    with pytest.raises(GymRayError) as caught:
        wait_until_running("app", 60.0, lambda line: None, lambda: None)
    assert (type(caught.value).__name__, str(caught.value)) == (kind, "no model")
