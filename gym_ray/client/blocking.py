"""`RolloutClient`: the client for programs without an event loop.

An event loop in a thread of its own does the work, so signs of life go on while the caller
computes between two results.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Collection, Coroutine, Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, Unpack

from gym_ray.client.asynchronous import AsyncRolloutClient
from gym_ray.client.batch import Batch
from gym_ray.client.call_options import CallOptions
from gym_ray.client.errors import ClientError
from gym_ray.client.groups import Groups, OnFailure
from gym_ray.client.results import RolloutGroup, RolloutResult
from gym_ray.client.tasks import Tasks
from gym_ray.policies.weights import WeightsReport

T = TypeVar("T")

_STOP_SECONDS = 10.0


class RolloutClient:
    """Asks a running service for rollouts; may be shared by threads.

    Args:
        base_url: of the service, as `gym-ray serve` prints it.
        api_key: its key, "" for none; None for the environment variable `GYM_RAY_API_KEY`, and no
            key without that.
        admin_key: what `update_weights` needs; None for the environment variable
            `GYM_RAY_ADMIN_KEY`.
        max_in_flight: rollouts of one call at once, see `run`.
        lease_seconds: 1 to 600; a client that gave no sign of life for so long (killed, or
            unreachable) has its rollouts given up. Finished ones are kept.
        max_retries: tries after the first, of every request, when the service cannot be
            reached; with growing, jittered pauses, about half a minute in all for 8.
        request_timeout_seconds: how long one request may take, beside what it waits on purpose.

    Example:
        >>> with RolloutClient("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     for result in client.run(tasks, temperature=0.7):
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
        self._client = AsyncRolloutClient(
            base_url,
            api_key=api_key,
            admin_key=admin_key,
            max_in_flight=max_in_flight,
            lease_seconds=lease_seconds,
            max_retries=max_retries,
            request_timeout_seconds=request_timeout_seconds,
        )
        self._abandoned: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="gym-ray-client", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout_seconds: float = 600.0) -> None:
        """As `AsyncRolloutClient.wait_ready`."""
        self._call(self._client.wait_ready(timeout_seconds))

    def run(
        self, tasks: Tasks, *, received: Collection[int] = (), **options: Unpack[CallOptions]
    ) -> Generator[RolloutResult, None, None]:
        """As `AsyncRolloutClient.run`."""
        with self._batch(tasks, 1, received, options) as batch:
            while (result := self._call(batch.next())) is not None:
                yield result
                self._loop.call_soon_threadsafe(batch.handled, [result])

    def groups(
        self,
        tasks: Tasks,
        n: int,
        *,
        on_failure: OnFailure = "yield",
        received: Collection[int] = (),
        **options: Unpack[CallOptions],
    ) -> Generator[RolloutGroup, None, None]:
        """As `AsyncRolloutClient.groups`."""
        with self._batch(tasks, n, received, options) as batch:
            groups = Groups(batch, n, on_failure)
            while (group := self._call(groups.next())) is not None:
                yield group
                self._loop.call_soon_threadsafe(batch.handled, group.results)

    def update_weights(
        self,
        version: int,
        source: str | Mapping[str, Any],
        *,
        mode: Literal["keep", "drain"] = "keep",
        timeout_seconds: float = 600.0,
    ) -> WeightsReport:
        """As `AsyncRolloutClient.update_weights`."""
        return self._call(
            self._client.update_weights(version, source, mode=mode, timeout_seconds=timeout_seconds)
        )

    def weights(self) -> WeightsReport:
        """As `AsyncRolloutClient.weights`."""
        return self._call(self._client.weights())

    def refit(
        self,
        checkpoint: str | Path,
        *,
        mode: Literal["keep", "drain"] = "keep",
        timeout_seconds: float = 600.0,
    ) -> WeightsReport:
        """As `AsyncRolloutClient.refit`."""
        return self._call(
            self._client.refit(checkpoint, mode=mode, timeout_seconds=timeout_seconds)
        )

    def close(self) -> None:
        """Give up what runs and close the connections. Idempotent."""
        if self._loop.is_closed():
            return
        try:
            self._call(self._client.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_SECONDS)

    def __enter__(self) -> RolloutClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _batch(
        self, tasks: Tasks, repeats: int, received: Collection[int], options: CallOptions
    ) -> Iterator[Batch]:
        async def opened() -> Batch:
            return await self._client.batch(tasks, repeats, received, options).__aenter__()

        batch = self._call(opened())
        try:
            yield batch
        finally:
            if threading.current_thread() is self._thread:
                # An abandoned call, collected here: this thread cannot wait for itself.
                self._abandoned = self._loop.create_task(batch.close())
            elif not self._loop.is_closed():  # Else the client was closed, and with it the batch.
                self._call(batch.close())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the client's loop; Ctrl-C gives it up."""
        if self._loop.is_closed():
            coroutine.close()
            raise ClientError("the client is closed; make another one")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientError("the client was closed before everything was there") from None
        except BaseException:
            future.cancel()
            raise

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            # Other threads wait for what is left, such as a request between two tries.
            while left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(left))
            self._loop.close()
