"""`AsyncRolloutClient`: the client on an event loop of the caller's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Unpack

from gym_ray.client.batch import Batch
from gym_ray.client.call_options import CallOptions, ResolvedOptions
from gym_ray.client.groups import Groups, OnFailure
from gym_ray.client.results import RolloutGroup, RolloutResult
from gym_ray.client.tasks import Tasks
from gym_ray.client.transport import ServiceTransport
from gym_ray.policies.weights import WeightsReport, WeightsUpdate


class AsyncRolloutClient:
    """Asks a running service for rollouts.

    Args:
        base_url: of the service, as `gym-ray serve` prints it.
        api_key: its key, "" for none; None for the environment variable `GYM_RAY_API_KEY`, and no
            key without that.
        admin_key: what `refit` and `update_weights` need; None for the environment variable
            `GYM_RAY_ADMIN_KEY`.
        max_in_flight: rollouts of one call at once, see `run`.
        lease_seconds: 1 to 600; a client that gave no sign of life for so long (killed, or
            unreachable) has its rollouts given up. Finished ones are kept.
        max_retries: tries after the first, of every request, when the service cannot be
            reached; with growing, jittered pauses, about half a minute in all for 8.
        request_timeout_seconds: how long one request may take, beside what it waits on purpose.

    Example:
        >>> async with AsyncRolloutClient("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     async for result in client.run(tasks):
        ...         print(result.index, result.reward)
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        admin_key: str | None = None,
        max_in_flight: int = 256,
        lease_seconds: float = 30.0,
        max_retries: int = 8,
        request_timeout_seconds: float = 60.0,
    ) -> None:
        if api_key is None:
            api_key = os.environ.get("GYM_RAY_API_KEY")
        self._admin_key = admin_key or os.environ.get("GYM_RAY_ADMIN_KEY")
        self._max_in_flight = max_in_flight
        self._lease_seconds = lease_seconds
        self._transport = ServiceTransport(
            base_url,
            api_key=api_key,
            max_retries=max_retries,
            timeout_seconds=request_timeout_seconds,
        )
        self._open: set[Batch] = set()

    async def wait_ready(self, timeout_seconds: float = 600.0) -> None:
        """Return as soon as the service is up: where it is not there yet, and while it starts, it
        is asked again.

        Args:
            timeout_seconds: how long to wait; a model may take minutes to load.

        Raises:
            ServiceUnavailable: it is not up in time; the message has the last answer.
            RequestRefused: what answers there is another service.
        """
        await self._transport.wait_ready(timeout_seconds)

    async def run(
        self, tasks: Tasks, *, received: Collection[int] = (), **options: Unpack[CallOptions]
    ) -> AsyncGenerator[RolloutResult, None]:
        """One rollout per task; yields results as they complete, each with its task's index.

        A result counts as received, and is acknowledged, when the caller comes back for the
        next one. A failed rollout is a result too; there are as many results as tasks, or this
        raises. Leaving the loop, closing the client or cancelling gives up what still runs.

        Args:
            tasks: task rows. Consumed lazily, in another thread when it is no sequence.
            received: indices the caller has already, by its own records: they are neither run
                nor yielded. Closes the one gap a name leaves: a caller killed between keeping a
                result and acknowledging it.
            options: see `CallOptions`.

        Raises:
            CallTimeout: `timeout_seconds` are over.
            BatchConflict: another client took the name over, or an index has another content
                than it had.
            ServiceUnavailable, Unauthorized, RequestRefused, ResultsMissing: as they say.
            ValueError: a task is not a JSON object.
        """
        async with self.batch(tasks, 1, received, options) as batch:
            while (result := await batch.next()) is not None:
                yield result
                batch.handled([result])

    async def groups(
        self,
        tasks: Tasks,
        n: int,
        *,
        on_failure: OnFailure = "yield",
        received: Collection[int] = (),
        **options: Unpack[CallOptions],
    ) -> AsyncGenerator[RolloutGroup, None]:
        """`n` rollouts per task; yields groups as they are complete, each with its task's index.

        A group is acknowledged as a whole. Otherwise as `run`.

        Args:
            tasks: as `run`.
            n: rollouts per task.
            on_failure: what becomes of a group with failed rollouts: it is yielded, with them,
                or `GroupFailed` is raised.
            received: as `run`, of groups.
            options: as `run`.

        Raises:
            GroupFailed: see `on_failure`.
        """
        async with self.batch(tasks, n, received, options) as batch:
            groups = Groups(batch, n, on_failure)
            while (group := await groups.next()) is not None:
                yield group
                batch.handled(group.results)

    async def update_weights(
        self,
        version: int,
        source: str | Mapping[str, Any],
        *,
        mode: Literal["keep", "drain"] = "keep",
        timeout_seconds: float = 600.0,
    ) -> WeightsReport:
        """Give the policy new weights; returns when every replica has them.

        Whatever breaks on the way is tried again: the same update a second time does nothing, or
        completes the first.

        Args:
            version: more than every earlier one.
            source: checkpoint directory that every replica can read, or a transfer; see
                docs/weights.md.
            mode: what becomes of generations in flight: `keep` goes on with them under the new
                weights, `drain` lets them end first.
            timeout_seconds: how long a replica may take.

        Raises:
            UpdateRefused: it cannot be; nothing has changed.
            Unauthorized: not the admin key, or the service has none.
            ServiceUnavailable: some replicas could not load, after all retries.
        """
        update = WeightsUpdate.model_validate(
            {"version": version, "source": source, "mode": mode, "timeout_seconds": timeout_seconds}
        )
        answer = await self._transport.ask(
            "POST",
            "/weights",
            update.model_dump(),
            waits_seconds=timeout_seconds,
            key=self._admin_key,
        )
        return WeightsReport.from_json(answer)

    async def weights(self) -> WeightsReport:
        """What every replica of the policy has now; version 0 is what it was started with.

        Raises:
            Unauthorized, ServiceUnavailable: as `update_weights`.
        """
        answer = await self._transport.ask("GET", "/weights", key=self._admin_key)
        return WeightsReport.from_json(answer)

    async def refit(
        self,
        checkpoint: str | Path,
        *,
        mode: Literal["keep", "drain"] = "keep",
        timeout_seconds: float = 600.0,
    ) -> WeightsReport:
        """Give the policy a trainer's checkpoint, as the version after its current one.

        Args:
            checkpoint: directory that every replica can read; keep it until the next update.
            mode: as `update_weights`.
            timeout_seconds: as `update_weights`.

        Raises:
            UpdateRefused, Unauthorized, ServiceUnavailable: as `update_weights`.
        """
        version = (await self.weights()).version + 1
        source = str(await asyncio.to_thread(Path(checkpoint).resolve))
        return await self.update_weights(
            version, source, mode=mode, timeout_seconds=timeout_seconds
        )

    def batch(
        self, tasks: Tasks, repeats: int, received: Collection[int], options: CallOptions
    ) -> Batch:
        """What `run` and `groups` are made of: a context manager that yields result by result."""
        if repeats < 1:
            raise ValueError(f"a group has at least one rollout, not {repeats}")
        given = {name: value for name, value in options.items() if value is not None}
        defaults = {"max_in_flight": self._max_in_flight, "lease_seconds": self._lease_seconds}
        resolved = ResolvedOptions(**{**defaults, **given})  # type: ignore[arg-type]
        batch = Batch(self._transport, tasks, repeats, resolved, received, self._open.discard)
        self._open.add(batch)
        return batch

    async def close(self) -> None:
        """Give up what runs and close the connections. Idempotent."""
        for batch in list(self._open):
            await batch.close()
        await self._transport.close()

    async def __aenter__(self) -> AsyncRolloutClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
