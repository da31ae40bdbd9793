"""The replica of the policy: one engine, its weights, and the turns it is asked for.

Failures of a turn come back as values, not as exceptions: an exception crossing
Serve is wrapped, logged and counted as the replica's fault, and means here that the transport
or the replica broke.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import (
    AsyncIterator,
    Mapping,
    Sequence,
)

from gym_ray.config.load import RunConfig
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.policies.chat import ChatRequest
from gym_ray.policies.engine import ChatEngine, EngineLoad, MeasuredEngine, PolicyInfo
from gym_ray.policies.weights import Place, RefusedUpdate, ReplicaWeights, WeightsUpdate
from gym_ray.serving.coalescing import as_they_finish
from gym_ray.serving.engines import build_engine
from gym_ray.serving.host import Host
from gym_ray.serving.live_weights import LiveWeights
from gym_ray.serving.policy_client import Reply, Request, reply_bytes
from gym_ray.serving.turn_observer import TurnObserver
from gym_ray.telemetry.traces import flush_traces

logger = logging.getLogger("ray.serve")


class PolicyReplica:
    """One engine. Tokens in, tokens and logprobs out; or messages both ways.

    Make it on its event loop.

    Args:
        config: the whole config.
        host: where it lives.
    """

    def __init__(self, config: RunConfig, host: Host) -> None:
        self._host = host
        self._engine = build_engine(config)
        self._weights = LiveWeights(self._engine, host.tag, host.weights, end=host.end)
        self._observer = TurnObserver(self._engine, config.policy.model)

    async def start(self) -> None:
        """Load the model and take turns from then on.

        Raises:
            ConfigError, GymRayError: see the engine's `start`.
        """
        self._info = await self._engine.start()
        await self._weights.start()
        logger.info(
            "policy %s serves %s, engine seed %d",
            self._info.engine, self._info.model, self._info.seed,
        )  # fmt: skip

    async def generate(
        self, requests: Sequence[Request]
    ) -> AsyncIterator[list[tuple[int, Reply | RolloutFailure]]]:
        """Sample turns at once; yields `(position, answer)` as they are ready."""
        turns = [
            self._observer.watch(request, self._generate(index, request))
            for index, request in enumerate(requests)
        ]
        answered = as_they_finish(turns, lambda answer: reply_bytes(answer[1]))
        async with contextlib.aclosing(answered) as batches:
            async for answers in batches:
                yield answers

    async def _generate(self, index: int, request: Request) -> tuple[int, Reply | RolloutFailure]:
        try:
            async with asyncio.timeout(request.call.timeout_seconds) as deadline:
                return index, await self._answer(request)
        except RolloutFailure as failure:
            if failure.kind is FailureKind.POLICY_ERROR:
                await self._leave_if_broken()
            return index, failure
        except Exception as error:
            if deadline.expired():
                message = f"no answer within {request.call.timeout_seconds:g} s"
                return index, RolloutFailure(FailureKind.POLICY_TIMEOUT, message)
            logger.exception("request %s failed", request.call.request_id)
            await self._leave_if_broken()
            return index, RolloutFailure(FailureKind.POLICY_ERROR, one_line(error))

    async def _answer(self, request: Request) -> Reply:
        if not isinstance(request, ChatRequest):
            return await self._weights.generate(request)
        if not isinstance(self._engine, ChatEngine):
            raise RolloutFailure(
                FailureKind.POLICY_REJECTED, "this policy takes tokens, not messages"
            )
        return await self._engine.chat(request)

    async def _leave_if_broken(self) -> None:
        """End this replica when its engine is dead.

        Until health checks had noticed, it would go on taking turns and failing them at once; a
        gone replica gets none, and is replaced.
        """
        try:
            await self._engine.check_health()
        except Exception:
            logger.exception("the engine is dead; this replica ends")
            self._host.end(1)

    async def info(self) -> PolicyInfo:
        weights = self._weights.current
        return dataclasses.replace(
            self._info,
            fingerprint=weights.fingerprint or weights.loaded or self._info.fingerprint,
            weights_version=weights.version,
        )

    # Called on all replicas at once; see `weights.py`.

    async def weights(self) -> ReplicaWeights:
        return self._weights.current

    async def check_weights(
        self, update: WeightsUpdate, place: Place
    ) -> RefusedUpdate | str | None:
        return await self._weights.check(update, place)

    async def update_weights(
        self, update: WeightsUpdate, expected: str | None, among: Mapping[str, Place]
    ) -> ReplicaWeights:
        own = self._weights.current.replica
        if own not in among:
            return self._weights.current  # It has come up since, from the record.
        return await self._weights.update(update, expected, among[own])

    def engine_load(self) -> EngineLoad:
        """What the engine has in work, where it tells."""
        return self._engine.load() if isinstance(self._engine, MeasuredEngine) else EngineLoad()

    async def record_autoscaling_stats(self) -> dict[str, float]:  # Serve asks for it by this name.
        return self._observer.load()

    async def check_health(self) -> None:
        await self._engine.check_health()

    async def stop(self) -> None:
        """End the engine and its processes."""
        self._observer.close()
        self._weights.stop()
        await self._engine.stop()
        await asyncio.to_thread(flush_traces)
