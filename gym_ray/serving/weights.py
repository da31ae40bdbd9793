"""Updating the weights of a policy: every replica that runs, and every one that starts later.

Owned here: one update from the request to the report. In this order:

1. Every running replica says whether the update can be. One no, and nothing changes.
2. The record is written: replicas that start from now on come up with the new weights. (Of a
   transfer, when the first replica has it: there may be no other place to load it from.)
3. Every running replica updates, all at once, as a trainer's broadcast needs.
4. Every replica that runs by then is asked what it has, until all have the version.

Forward only: a replica that fails after step 2 ends, is reported, and is replaced by one that
loads the version anew. The same update again completes what was interrupted and else does
nothing. Not owned here: what a replica does (live_weights).
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from gym_ray.errors import GymRayError
from gym_ray.policies.bundled import fingerprint
from gym_ray.policies.weights import (
    Place,
    RefusedUpdate,
    ReplicaWeights,
    WeightsReport,
    WeightsUpdate,
)
from gym_ray.serving.live_weights import places
from gym_ray.serving.weights_record import WeightsRecord, WeightsStore

_ASK_SECONDS = 30.0
_POLL_SECONDS = 0.25


class PolicyWeights:
    """The weights of the policy of one application. One instance leads all updates.

    Args:
        policy: Serve handle of the policy.
        application: Serve's name of the application.
        deployment: Serve's name of the policy in it.
        model: it was started with.
    """

    def __init__(self, policy: Any, application: str, deployment: str, model: str) -> None:
        self._policy = policy
        self._application = application
        self._deployment = deployment
        self._store = WeightsStore(application, model)
        self._under_way: tuple[WeightsUpdate, asyncio.Task[WeightsReport | RefusedUpdate]] | None
        self._under_way = None

    async def report(self) -> WeightsReport:
        """What every replica has now."""
        record = await asyncio.to_thread(self._store.read)
        _, starting = await self._counts()
        return _report(record, await self._ask(), starting)

    async def update(self, update: WeightsUpdate) -> WeightsReport | RefusedUpdate:
        """Carry an update out; see the module. The one that is under way is joined when it is
        asked for again, by who has lost the connection over it, say.

        Returns:
            What every replica has afterwards, those that failed with their `error`; or why the
            update cannot be.

        Raises:
            GymRayError: replicas do not answer; repeat the update to complete it.
        """
        if self._under_way is None or self._under_way[1].done():
            # Of its own: it goes on when who asks goes away.
            self._under_way = update, asyncio.ensure_future(self._update(update))
        known, task = self._under_way
        if known != update:
            return RefusedUpdate("busy", "another update is under way; ask again when it is done")
        return await asyncio.shield(task)

    async def _update(self, update: WeightsUpdate) -> WeightsReport | RefusedUpdate:
        if update.checkpoint is not None and not os.path.isabs(update.checkpoint):
            return RefusedUpdate(
                "wrong_source",
                f"the checkpoint {update.checkpoint!r} has to be an absolute path that every "
                "replica can read",
            )
        before = await asyncio.to_thread(self._store.read)
        if before is not None and (refused := _conflict(update, before)):
            return refused
        running = await self._ask()
        if before is not None and before.version == update.version:
            if all(replica.version == update.version for replica in running):
                return await self.report()
            if not isinstance(update.source, str):
                # Replicas that missed a transfer cannot have it again; they follow the record.
                return await self._until_all_have(update, before, [])
            expected = before.fingerprint
        else:
            checked = await self._check(update, running)
            if isinstance(checked, RefusedUpdate):
                return checked
            expected = checked
        record = WeightsRecord.of(update, expected)
        if isinstance(update.source, str):
            await asyncio.to_thread(self._store.write, record)
        told = await self._tell(update, expected, running)
        failed = [replica for replica in told if replica.error is not None]
        if not isinstance(update.source, str) and len(failed) < len(told):
            await asyncio.to_thread(self._store.write, record)
        if told and len(failed) == len(told):
            # None is left to be asked; those that replace them start from the record.
            _, starting = await self._counts()
            return dataclasses.replace(_report(record, failed, starting), changed=True)
        return await self._until_all_have(update, record, failed)

    async def _check(
        self, update: WeightsUpdate, running: Sequence[ReplicaWeights]
    ) -> RefusedUpdate | str | None:
        """The checkpoint's fingerprint, which all replicas see alike, or why there is no update."""
        if not running:
            if (await self._counts())[0]:
                raise GymRayError("no policy replica answers; repeat the update")
            # Scaled to zero. Whether the weights fit shows when the next replica starts.
            if update.checkpoint is None:
                return RefusedUpdate("wrong_source", "no replica runs that could receive weights")
            if not await asyncio.to_thread(os.path.isdir, update.checkpoint):
                return RefusedUpdate("wrong_source", f"{update.checkpoint}: no such directory here")
            return await asyncio.to_thread(fingerprint, update.checkpoint)
        place = Place(replicas=len(running))
        answers = await self._broadcast("check_weights", update.timeout_seconds, update, place)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise GymRayError(f"a policy replica does not answer: {answer}") from answer
            if isinstance(answer, RefusedUpdate):
                return answer
        found = set(answers)
        if len(found) > 1:
            return RefusedUpdate(
                "wrong_source",
                f"replicas see different files in {update.checkpoint}; use a directory that all "
                "nodes share, and write every version to one of its own",
            )
        expected: str | None = found.pop()
        return expected

    async def _tell(
        self, update: WeightsUpdate, expected: str | None, running: Sequence[ReplicaWeights]
    ) -> list[ReplicaWeights]:
        """Update every running replica; one that died over it is among the failed."""
        if not running:
            return []
        among = places([replica.replica for replica in running])
        seconds = update.timeout_seconds + _ASK_SECONDS
        answers = await self._broadcast("update_weights", seconds, update, expected, among)
        told = [answer for answer in answers if isinstance(answer, ReplicaWeights)]
        gone = sorted(set(among) - {replica.replica for replica in told})
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        # A replica that was scaled down meanwhile is missing too, but nothing is said of it.
        told += [
            ReplicaWeights(name, version=0, error=f"it ended: {' '.join(str(error).split())[:200]}")
            for name, error in zip(gone, errors, strict=False)
        ]
        return told

    async def _until_all_have(
        self, update: WeightsUpdate, record: WeightsRecord, failed: Sequence[ReplicaWeights]
    ) -> WeightsReport:
        deadline = time.monotonic() + update.timeout_seconds
        ended = {replica.replica for replica in failed}
        while True:
            running, starting = await self._counts()
            asked = [replica for replica in await self._ask() if replica.replica not in ended]
            failed = [*failed, *(replica for replica in asked if replica.error is not None)]
            ended = {replica.replica for replica in failed}
            good = [replica for replica in asked if replica.version == update.version]
            # Serve may still count those that are about to end.
            if len(good) == len(asked) and len(good) >= running - len(failed):
                replicas = [*_alike(good), *failed]
                return dataclasses.replace(_report(record, replicas, starting), changed=True)
            if time.monotonic() > deadline:
                behind = sorted({replica.replica for replica in asked if replica not in good})
                raise GymRayError(
                    f"not every replica has version {update.version} after "
                    f"{update.timeout_seconds:g} s: {', '.join(behind) or 'some do not answer'}; "
                    "repeat the update to complete it"
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _ask(self) -> list[ReplicaWeights]:
        """What every running replica has."""
        running, _ = await self._counts()
        if not running:
            return []
        answers = await self._broadcast("weights", _ASK_SECONDS)
        return [answer for answer in answers if isinstance(answer, ReplicaWeights)]

    async def _broadcast(self, method: str, seconds: float, *arguments: Any) -> list[Any]:
        from ray.serve.exceptions import DeploymentUnavailableError

        try:
            answers: list[Any] = await self._policy.broadcast(method, *arguments).results_async(
                timeout_s=seconds, return_exceptions=True
            )
        except TimeoutError as error:
            raise GymRayError(
                f"policy replicas did not answer {method} within {seconds:g} s; repeat the update "
                "to complete it"
            ) from error
        except DeploymentUnavailableError:
            return []
        return answers

    async def _counts(self) -> tuple[int, int]:
        """How many replicas run, and how many are on their way up."""
        from ray import serve

        status = await asyncio.to_thread(serve.status)
        states = {
            str(getattr(state, "value", state)): count
            for state, count in status.applications[self._application]
            .deployments[self._deployment]
            .replica_states.items()
        }
        return states.get("RUNNING", 0), states.get("STARTING", 0)


def _conflict(update: WeightsUpdate, record: WeightsRecord) -> RefusedUpdate | None:
    if update.version < record.version:
        return RefusedUpdate(
            "version_conflict",
            f"the policy is at version {record.version} already; versions only count up, so "
            f"old weights too come back as {record.version + 1} or more",
        )
    if update.version == record.version and update.origin != record.origin:
        return RefusedUpdate(
            "version_conflict",
            f"version {record.version} is {record.origin}, not {update.origin}; give other "
            "weights another version",
        )
    return None


def _alike(replicas: Sequence[ReplicaWeights]) -> list[ReplicaWeights]:
    """The replicas, with an `error` where the weights in memory are not those of most."""
    if not replicas:
        return []
    usual, _ = Counter(replica.loaded for replica in replicas).most_common(1)[0]
    return [
        replica
        if replica.loaded == usual
        else dataclasses.replace(replica, error=f"it loaded {replica.loaded}, others {usual}")
        for replica in replicas
    ]


def _report(
    record: WeightsRecord | None, replicas: Sequence[ReplicaWeights], starting: int
) -> WeightsReport:
    return WeightsReport(
        version=0 if record is None else record.version,
        origin="" if record is None else record.origin,
        fingerprint=None if record is None else record.fingerprint,
        replicas=tuple(sorted(replicas, key=lambda replica: replica.replica)),
        starting=starting,
    )
