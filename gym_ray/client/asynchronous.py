"""`AsyncRolloutClient`: the client on an event loop of the caller's."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal

from gym_ray.client.batch import Batch
from gym_ray.client.groups import Groups
from gym_ray.client.results import RolloutGroup, RolloutResult
from gym_ray.client.transport import Transport
from gym_ray.client.wishes import Wishes

#: Task rows; taken from only as there is room for their rollouts.
Tasks = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]

OnFailure = Literal["yield", "raise"]


class AsyncRolloutClient:
    """Asks a running service for rollouts.

    Args:
        base_url: of the service, as `gym-ray serve` prints it.
        api_key: its key; None for the environment variable `GYM_RAY_API_KEY`, and no key
            without that.
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
        max_in_flight: int = 256,
        lease_seconds: float = 30.0,
        max_retries: int = 8,
        request_timeout_seconds: float = 60.0,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._lease_seconds = lease_seconds
        self._transport = Transport(
            base_url,
            api_key=api_key or os.environ.get("GYM_RAY_API_KEY"),
            max_retries=max_retries,
            timeout_seconds=request_timeout_seconds,
        )
        self._open: set[Batch] = set()

    async def run(
        self,
        tasks: Tasks,
        *,
        name: str | None = None,
        received: Collection[int] = (),
        temperature: float | None = None,
        top_p: float | None = None,
        max_output_tokens: int | None = None,
        seed: int | None = None,
        rollout_timeout_seconds: float | None = None,
        timeout_seconds: float | None = None,
        max_in_flight: int | None = None,
    ) -> AsyncGenerator[RolloutResult, None]:
        """One rollout per task; yields results as they complete, each with its task's index.

        A result counts as received, and is acknowledged, when the caller comes back for the
        next one. A failed rollout is a result too; there are as many results as tasks, or this
        raises. Leaving the loop, closing the client or cancelling gives up what still runs.

        Args:
            tasks: task rows. Consumed lazily, from another thread when it is no sequence.
            name: a stable name makes the call continuable: called again under it with the same
                tasks (by this process or the next), results that were acknowledged are not
                yielded again, those that were not are, with their index, and nothing runs
                twice. 1 to 200 letters, digits and `._:-`. None for a call that ends with this
                one.
            received: indices whose results the caller has already, by its own records: they
                are neither run nor yielded. Closes the one gap a name leaves, a caller killed
                between keeping a result and acknowledging it.
            temperature, top_p, max_output_tokens: instead of the rows'.
            seed: makes turns repeatable under the same `name`.
            rollout_timeout_seconds: deadline of one attempt at a rollout.
            timeout_seconds: deadline of the whole call.
            max_in_flight: rollouts running, or finished and not yet acknowledged, at most.

        Raises:
            CallTimeout: `timeout_seconds` are over.
            BatchConflict: another client uses the name, or an index has another content than it
                had.
            ServiceUnavailable, Unauthorized, RequestRefused, ResultsMissing: as they say.
            ValueError: a task is not a JSON object.
        """
        wishes = self._wishes(
            name, temperature, top_p, max_output_tokens, seed, rollout_timeout_seconds,
            timeout_seconds, max_in_flight,
        )  # fmt: skip
        async with self._batch(tasks, 1, wishes, received) as batch:
            while (result := await batch.next()) is not None:
                yield result
                batch.handled([result])

    async def groups(
        self,
        tasks: Tasks,
        n: int,
        *,
        on_failure: OnFailure = "yield",
        name: str | None = None,
        received: Collection[int] = (),
        temperature: float | None = None,
        top_p: float | None = None,
        max_output_tokens: int | None = None,
        seed: int | None = None,
        rollout_timeout_seconds: float | None = None,
        timeout_seconds: float | None = None,
        max_in_flight: int | None = None,
    ) -> AsyncGenerator[RolloutGroup, None]:
        """`n` rollouts per task; yields groups as they are complete, each with its task's index.

        A group is acknowledged as a whole. Otherwise as `run`.

        Args:
            n: rollouts per task.
            on_failure: what becomes of a group with failed rollouts: it is yielded, with them,
                or `GroupFailed` is raised.
            received: indices of groups the caller has already.

        Raises:
            GroupFailed: see `on_failure`.
        """
        if n < 1:
            raise ValueError(f"a group has at least one rollout, not {n}")
        wishes = self._wishes(
            name, temperature, top_p, max_output_tokens, seed, rollout_timeout_seconds,
            timeout_seconds, max_in_flight,
        )  # fmt: skip
        async with self._batch(tasks, n, wishes, received) as batch:
            groups = Groups(batch, n, on_failure)
            while (group := await groups.next()) is not None:
                yield group
                batch.handled(group.results)

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
