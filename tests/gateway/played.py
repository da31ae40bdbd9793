"""A gateway whose batches are real rollouts: an agent, tools, and a scripted policy.

Run as a program with a port it serves until it is killed, for tests in other interpreters.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import uvicorn
from fastapi import FastAPI

from gym_ray.agents import AGENTS
from gym_ray.batches.host import BatchHost
from gym_ray.batches.protocol import Opening
from gym_ray.config.environment import EnvironmentConfig
from gym_ray.config.policy import SamplingConfig
from gym_ray.errors import FailureKind
from gym_ray.gateway.app import GatewaySettings, create_app
from gym_ray.gateway.batches import batch_routes
from gym_ray.gateway.environments import environment_routes
from gym_ray.gateway.weights import weights_router
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.policies.weights import RefusedUpdate, ReplicaWeights, WeightsReport, WeightsUpdate
from gym_ray.renderers import load_renderer
from gym_ray.rollout import Producer, Rollout, RolloutSpec, failed_rollout
from gym_ray.routing import Router
from gym_ray.runner import Runner, RunSettings
from gym_ray.sampling import Sampling
from tests.gateway.conftest import serving
from tests.gateway.policies import token_policy
from tests.replies import row_of, tool_calls
from tests.verification import on_loop
from tests.workshop import Workshop

KEY = "the-key"
ADMIN_KEY = "the-admins"

ENVIRONMENTS: Mapping[str, EnvironmentConfig] = {"workshop": EnvironmentConfig()}

#: Arguments of the engine.
REPLY: dict[str, object] = {"reply": "tests.replies:turns_in_the_prompt"}

#: Turns of a rollout with two tool calls, whose reward is 2, and of one without, whose is 0.
CALLS = [tool_calls(("count", {})), tool_calls(("count", {})), "Counted to 2."]
IDLES = ["I do not count."]


def task(*rollouts: list[str] | None, **fields: Any) -> dict[str, Any]:
    """A task whose nth rollout says the nth of these, turn by turn; None fails.

    With `fails_once`, the first rollout of a row with that value fails, with its sandbox.
    """
    return {**row_of([]), "rollouts": rollouts, **fields}


class Played:
    """A `RunBackend`.

    Args:
        rollouts: of tasks that name none.
        engine: samples them; it replies what stands in the prompt, with `REPLY`.

    Attributes:
        finished: every rollout that ended.
        engine: what they are sampled from.
    """

    def __init__(
        self, rollouts: list[list[str]] | None = None, engine: ScriptedEngine | None = None
    ) -> None:
        self._rollouts = rollouts
        self._failed: set[str] = set()
        self.finished: list[Rollout] = []
        self.engine = engine or ScriptedEngine(model="m", engine_args=REPLY)
        environment = Workshop()
        self._runner = Runner(
            environment=environment,
            agent_name="tool_calling",
            agent=AGENTS["tool_calling"],
            renderer=load_renderer(None),
            model="m",
            generate=self.engine.generate,
            verification=on_loop(environment),
        )

    def for_opening(self, opening: Opening) -> Played:
        return self

    async def run(self, spec: RolloutSpec) -> Rollout:
        row = json.loads(spec.task)
        rollouts = row.get("rollouts", self._rollouts)
        # NeMo RL asks for the rollouts of a group as rows that differ in nothing else.
        replies = rollouts[row.get("_rowidx", spec.rollout_index) % len(rollouts)]
        if (once := row.get("fails_once")) and once not in self._failed:
            self._failed.add(once)
            return failed_rollout(spec, FailureKind.SANDBOX_ERROR, "it is gone", run_id="run")
        if replies is None:
            return failed_rollout(spec, FailureKind.VERIFIER_TIMEOUT, "too slow", run_id="run")
        params = {**row["responses_create_params"], **row_of(replies)["responses_create_params"]}  # type: ignore[dict-item]
        played = dataclasses.replace(
            spec, task=json.dumps({**row, "responses_create_params": params})
        )
        settings = RunSettings("run", Sampling(max_output_tokens=2000), 60.0)
        rollout = await self._runner.run(played, settings, attempt=1)
        self.finished.append(rollout)
        return rollout


class Weights:
    """A `WeightsBackend` of one replica.

    Attributes:
        updates: those that were asked for.
        outcomes: refusals and reports to answer with, first to last, before taking an update.
        loaded: names of the files in each checkpoint when it was loaded.
    """

    def __init__(self) -> None:
        self.updates: list[WeightsUpdate] = []
        self.outcomes: list[WeightsReport | RefusedUpdate] = []
        self.loaded: list[set[str]] = []
        self.version = 0

    async def weights(self) -> WeightsReport:
        return self._report("")

    async def update_weights(self, update: WeightsUpdate) -> WeightsReport | RefusedUpdate:
        self.updates.append(update)
        if self.outcomes:
            return self.outcomes.pop(0)
        self.loaded.append(set(os.listdir(str(update.source))))
        self.version = update.version
        return self._report(str(update.source))

    def _report(self, origin: str) -> WeightsReport:
        replicas = (ReplicaWeights("a", self.version),)
        return WeightsReport(self.version, origin, "sha256:0", replicas, changed=True)


def application(
    played: Played,
    weights: Weights,
    environments: Mapping[str, EnvironmentConfig] = ENVIRONMENTS,
    sampling: SamplingConfig | None = None,
) -> FastAPI:
    held = BatchHost(
        played.for_opening,
        producer=Producer("run", "m", {}),
        max_running=64,
        retention_seconds=3600.0,
    )
    return create_app(
        policy=token_policy()[0],
        settings=GatewaySettings(api_key=KEY, admin_key=ADMIN_KEY),
        routers=[
            batch_routes(held, Router(environments)),
            environment_routes(environments, sampling or SamplingConfig()),
            weights_router(weights),
        ],
    )


@contextlib.contextmanager
def played_service(
    played: Played,
    weights: Weights | None = None,
    environments: Mapping[str, EnvironmentConfig] = ENVIRONMENTS,
    sampling: SamplingConfig | None = None,
) -> Iterator[str]:
    """Base URL of a gateway over them."""
    with serving(application(played, weights or Weights(), environments, sampling)) as url:
        yield url


if __name__ == "__main__":
    uvicorn.run(application(Played(), Weights()), port=int(sys.argv[1]), log_level="warning")
