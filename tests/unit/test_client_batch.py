"""One call of the client beside a service that loses its batches at the worst moment."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, cast

from gym_ray.batches.result_page import ResultPage, encode
from gym_ray.client.batch import Batch
from gym_ray.client.call_options import ResolvedOptions
from gym_ray.client.results import RolloutResult
from gym_ray.client.transport import MustReopen, ServiceTransport
from gym_ray.rollout import Rollout


class ForgetfulService:
    """Forgets the batch when it is given its row; a page of the forgotten one comes, with its
    cursor, while the client opens the batch again.

    Args:
        rollout: of the row, the first result of the batch that is opened anew.
    """

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout
        self._opened = 0
        self._polled = asyncio.Event()
        self._opening_again = asyncio.Event()
        self._old_page_taken = asyncio.Event()

    async def ask(self, method: str, path: str, body: Any = None, **_: Any) -> dict[str, Any]:
        if method == "PUT":
            self._opened += 1
            if self._opened == 2:
                self._opening_again.set()
                await self._old_page_taken.wait()
            return {"room": 1}
        if "/tasks?" in path:
            if self._opened == 1:
                await self._polled.wait()
                raise MustReopen("there is no such batch")
            return {"acknowledged": []}
        return {}

    async def content(self, method: str, path: str, **_: Any) -> bytes:
        if not self._opening_again.is_set():
            self._polled.set()
            await self._opening_again.wait()
            return encode(ResultPage(90, 1, ()))
        self._old_page_taken.set()
        after = int(re.findall(r"after=(\d+)", path)[0])
        return encode(
            ResultPage(1, 0, ((0, self._rollout),)) if after < 1 else ResultPage(after, 0, ())
        )


def test_a_late_page_of_a_lost_batch_hides_no_result_of_its_successor(
    make_rollout: Callable[..., Rollout],
) -> None:
    async def only_result() -> RolloutResult | None:
        transport = cast(ServiceTransport, ForgetfulService(make_rollout(0, 0, "sums")))
        wishes = ResolvedOptions(max_in_flight=1, lease_seconds=30.0)
        async with (
            asyncio.timeout(20),
            Batch(transport, [{"n": 1}], 1, wishes, (), lambda _: None) as batch,
        ):
            return await batch.next()

    result = asyncio.run(only_result())

    assert result is not None
    assert result.index == 0
