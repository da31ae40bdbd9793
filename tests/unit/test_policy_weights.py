"""Who leads updates of the weights: one update at a time, and the same one again is the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve

from gym_ray.errors import GymRayError
from gym_ray.policies.weights import RefusedUpdate, ReplicaWeights, WeightsReport, WeightsUpdate
from gym_ray.serving import weights
from gym_ray.serving.weights import PolicyWeights
from gym_ray.serving.weights_record import WeightsRecord

UPDATE = WeightsUpdate(version=1, source="/checkpoints/1")


class Store:
    """A record in this process."""

    def __init__(self, application: str, model: str) -> None:
        self.record: WeightsRecord | None = None

    def read(self) -> WeightsRecord | None:
        return self.record

    def write(self, record: WeightsRecord) -> None:
        self.record = record


class Policy:
    """Handle of one replica, which loads when it is let."""

    def __init__(self) -> None:
        self.may_load = asyncio.Event()
        self.loading = asyncio.Event()
        self.loads = 0
        self._current = ReplicaWeights("only", version=0)

    def broadcast(self, method: str, *arguments: Any) -> Any:
        async def results(**_: Any) -> list[Any]:
            if method == "check_weights":
                return ["fingerprint"]
            if method == "update_weights":
                self.loads += 1
                self.loading.set()
                await self.may_load.wait()
                self._current = ReplicaWeights("only", version=arguments[0].version)
            return [self._current]

        return SimpleNamespace(results_async=results)


@pytest.fixture(autouse=True)
def _one_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    deployments = {"policy": SimpleNamespace(replica_states={"RUNNING": 1})}
    applications = {"app": SimpleNamespace(deployments=deployments)}
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))
    monkeypatch.setattr(weights, "WeightsStore", Store)


def test_who_lost_the_connection_over_an_update_joins_it_by_asking_again() -> None:
    async def asked() -> None:
        policy = Policy()
        leader = PolicyWeights(policy, "app", "policy", "model")
        first = asyncio.ensure_future(leader.update(UPDATE))
        await policy.loading.wait()
        first.cancel()
        await asyncio.wait([first])

        other = await leader.update(WeightsUpdate(version=2, source="/checkpoints/2"))
        assert isinstance(other, RefusedUpdate)
        assert other.code == "busy"
        again = asyncio.ensure_future(leader.update(UPDATE))
        policy.may_load.set()
        report = await again

        assert isinstance(report, WeightsReport)
        assert [replica.version for replica in report.replicas] == [1]
        assert policy.loads == 1

    asyncio.run(asyncio.wait_for(asked(), 20))


def test_a_policy_scaled_to_zero_takes_no_checkpoint_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody could say so later: every replica that starts would fail."""

    class Silent(Policy):
        def broadcast(self, method: str, *arguments: Any) -> Any:
            async def results(**_: Any) -> list[Any]:
                return [ConnectionError("it is being replaced")]

            return SimpleNamespace(results_async=results)

    async def asked(leader: PolicyWeights, source: str) -> Any:
        return await leader.update(WeightsUpdate(version=1, source=source))

    with pytest.raises(GymRayError, match="no policy replica answers"):
        asyncio.run(asked(PolicyWeights(Silent(), "app", "policy", "m"), str(tmp_path)))

    states = {"policy": SimpleNamespace(replica_states={})}
    applications = {"app": SimpleNamespace(deployments=states)}
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))
    refused = asyncio.run(asked(PolicyWeights(Silent(), "app", "policy", "m"), "/no/such/folder"))
    assert isinstance(refused, RefusedUpdate)
    assert "/no/such/folder: no such directory" in refused.message
