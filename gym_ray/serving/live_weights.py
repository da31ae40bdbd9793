"""The weights of one policy replica: which it has, and how it comes to have others.

Owned here: following the application's record, at the start and ever after, and carrying out
updates one at a time. Not owned here: the order of an engine's own steps (policies), and which
replicas take part in an update (weights).

A replica is told of an update by a broadcast, and looks at the record once a second besides: one
that was starting during the broadcast is not missed. Whichever comes first, the other finds
nothing to do. A replica that fails to load serves no more turns, and ends: Serve replaces it by one
that starts from the record.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence

from gym_ray.errors import ConfigError, FailureKind, GymRayError, RolloutFailure, one_line
from gym_ray.policies.bundled import fingerprint
from gym_ray.policies.engine import Engine, GenerationRequest, UpdatableEngine
from gym_ray.policies.weights import Place, RefusedUpdate, ReplicaWeights, WeightsUpdate
from gym_ray.serving.turn_ages import TurnAges
from gym_ray.serving.weights_record import WeightsStore
from gym_ray.turn import Generation

logger = logging.getLogger("ray.serve")

_LOOK_SECONDS = 1.0

#: For what a replica says of its failure to reach the one who asks.
_LAST_WORDS_SECONDS = 2.0


class LiveWeights:
    """One replica's weights.

    Args:
        engine: started.
        replica: Serve's name of it.
        store: where the record is; None for a policy whose weights never change (a judge).
        end: ends this process.
    """

    def __init__(
        self,
        engine: Engine,
        replica: str,
        store: WeightsStore | None,
        *,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._engine = engine
        self._store = store
        self._end = end
        self._lock = asyncio.Lock()
        self._ages = TurnAges()
        self._tasks: set[asyncio.Task[ReplicaWeights]] = set()
        self._looking: asyncio.Task[None] | None = None
        self.current = ReplicaWeights(replica, version=0)

    async def start(self) -> None:
        """Come up with the weights of the record.

        Raises:
            GymRayError: they cannot be had.
        """
        if self._store is None:
            return
        await self._follow_record(self._store)
        if self.current.error is not None:
            raise GymRayError(self.current.error)
        self._looking = asyncio.ensure_future(self._keep_looking(self._store))

    def stop(self) -> None:
        """Follow the record no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def generate(self, request: GenerationRequest) -> Generation:
        """As the engine's, within the request's staleness limit.

        Raises:
            RolloutFailure: `policy_stale`; `policy_unavailable` when the weights are broken.
        """
        if self.current.error is not None:
            raise RolloutFailure(FailureKind.POLICY_UNAVAILABLE, self.current.error)
        if request.staleness is None:
            return await self._engine.generate(request)
        return await self._ages.sample(request.staleness, self._engine.generate(request))

    async def check(self, update: WeightsUpdate, place: Place) -> RefusedUpdate | str | None:
        """Whether an update can be; nothing changes.

        Returns:
            Fingerprint of the checkpoint as this replica sees it, None without one; or why not.
        """
        if not isinstance(self._engine, UpdatableEngine):
            return RefusedUpdate(
                "not_updatable", "the weights of a remote policy are its servers' to update"
            )
        try:
            await self._engine.check_weights(update, place)
            return await _fingerprint(update)
        except ConfigError as error:
            return RefusedUpdate("wrong_source", str(error))

    async def update(
        self, update: WeightsUpdate, expected: str | None, place: Place
    ) -> ReplicaWeights:
        """Have other weights; nothing to do for the version it has.

        Args:
            update: which.
            expected: fingerprint of the checkpoint.
            place: of this replica among those that are updated.

        Returns:
            What it has now; with `error` when it has failed and ends.
        """
        # Of its own: who asks may go away, and half an update is none.
        task = asyncio.ensure_future(self._update(update, expected, place))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _update(
        self, update: WeightsUpdate, expected: str | None, place: Place
    ) -> ReplicaWeights:
        async with self._lock:
            if self.current.error is not None or self.current.version >= update.version:
                return self.current
            began = time.monotonic()
            try:
                async with asyncio.timeout(update.timeout_seconds):
                    loaded = await self._load(update, expected, place)
            except Exception as error:
                late = f"not done within {update.timeout_seconds:g} s"
                reason = late if isinstance(error, TimeoutError) else one_line(error)
                self._fail(f"cannot have weights {update.version} of {update.origin}: {reason}")
                return self.current
            self.current = ReplicaWeights(
                self.current.replica,
                version=update.version,
                origin=update.origin,
                fingerprint=expected,
                loaded=loaded,
                seconds=time.monotonic() - began,
            )
            logger.info(
                "weights %d of %s after %.2f s",
                update.version, update.origin, self.current.seconds,
            )  # fmt: skip
            return self.current

    async def _load(self, update: WeightsUpdate, expected: str | None, place: Place) -> str:
        if not isinstance(self._engine, UpdatableEngine):
            raise ConfigError("the weights of a remote policy are its servers' to update")

        async def verify() -> None:
            # After loading, so that what was written while it was read is noticed too.
            if (found := await _fingerprint(update)) != expected:
                raise ConfigError(
                    f"{update.checkpoint} has fingerprint {found}, not {expected}: it has changed "
                    "since the update began; write every version to a folder of its own"
                )

        # Not everyone was asked before: a replica that follows the record was not there.
        await self._engine.check_weights(update, place)
        async with self._ages.making_way(update.version):
            return await self._engine.update_weights(update, place, verify)

    def _fail(self, reason: str) -> None:
        logger.error("%s; this replica is to be replaced", reason)
        self.current = ReplicaWeights(
            self.current.replica, version=self.current.version, error=reason
        )
        if self._looking is not None:  # Before that, `start` raises.
            asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._end, 1)

    async def _keep_looking(self, store: WeightsStore) -> None:
        while self.current.error is None:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._follow_record(store)
            except Exception:
                logger.exception("the record of the weights cannot be read; trying again")

    async def _follow_record(self, store: WeightsStore) -> None:
        record = await asyncio.to_thread(store.read)
        if record is None or record.version <= self.current.version:
            return
        update = record.update()
        if update is not None:
            await self.update(update, record.fingerprint, Place())
            return
        async with self._lock:  # The transfer may be under way here.
            if self.current.error is None and self.current.version < record.version:
                self._fail(
                    f"weights {record.version} came over {record.origin} and are in no "
                    "checkpoint; update from one, or give transfers their `checkpoint`"
                )


async def _fingerprint(update: WeightsUpdate) -> str | None:
    if update.checkpoint is None:
        return None
    return await asyncio.to_thread(fingerprint, update.checkpoint)


def places(replicas: Sequence[str]) -> dict[str, Place]:
    """Where each of the replicas of an update stands."""
    ordered = sorted(replicas)
    return {name: Place(position, len(ordered)) for position, name in enumerate(ordered)}
