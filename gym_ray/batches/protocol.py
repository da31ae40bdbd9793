"""What a backend of batches offers the gateway, and the values that travel between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from gym_ray.batches.result_page import ResultPage
from gym_ray.rollout import Rollout, RolloutSpec

#: Rows of one batch at most.
MAX_ROWS = 10_000_000


Refusal: TypeAlias = Literal["unknown", "released", "taken", "content", "full", "long"]


class BatchError(Exception):
    """A batch does not do what is asked. Picklable.

    Args:
        refusal: `unknown`: there is no such batch; `released`: nobody holds it, open it again;
            `taken`: another client holds it; `content`: an index has another content than
            before; `full`: no room before results are acknowledged; `long`: too many rows.
        message: what is wrong and what to do about it.
    """

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(refusal, message)
        self.refusal = refusal
        self.message = message


@dataclasses.dataclass(frozen=True, slots=True)
class Opening:
    """How a client wants its batch.

    Attributes:
        holder: secret of this client, newly drawn; who has opened a batch last holds it.
        lease_seconds: without a request for so long, what runs is given up.
        rollout_timeout_seconds: deadline of one attempt; None for the service's, which is also
            the most there is.
        seed: of the sampling; None for the service's.
    """

    holder: str
    lease_seconds: float
    rollout_timeout_seconds: float | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class BatchState:
    """How a batch stands.

    Attributes:
        held: whether a client holds it.
        room: rows it has at once at most: waiting, running, or finished and not acknowledged.
        waiting, running, finished, acknowledged: rows.
    """

    held: bool
    room: int
    waiting: int
    running: int
    finished: int
    acknowledged: int


class BatchBackend(Protocol):
    """Reaches batches, wherever they live. All methods raise `BatchError`."""

    async def open(self, name: str, opening: Opening) -> BatchState:
        """Make the caller the holder of a batch, a new one if there is none of the name."""
        ...

    async def submit(
        self, name: str, holder: str, rows: Sequence[tuple[int, RolloutSpec]]
    ) -> list[int]:
        """Give rows by index; returns those that were acknowledged before.

        A spec's rollout ID is set by the backend; one with an `error` fails with it.
        """
        ...

    async def results(self, name: str, holder: str, after: int, wait_seconds: float) -> ResultPage:
        """What finished after cursor `after`; waits for something. Cancelling is harmless."""
        ...

    async def acknowledge(self, name: str, holder: str, indices: Sequence[int]) -> None:
        """Forget these results. Their rows are never run again."""
        ...

    async def release(self, name: str, holder: str) -> None:
        """Give up what runs; results and acknowledgements are kept for a client to come."""
        ...

    async def delete(self, name: str, holder: str | None) -> None:
        """Give up and forget everything; whoever holds it when `holder` is None."""
        ...

    async def state(self, name: str) -> BatchState:
        """How a batch stands."""
        ...


class RunBackend(Protocol):
    """Runs rollouts. Cancelling `run` gives the rollout up."""

    async def run(self, spec: RolloutSpec) -> Rollout:
        """One rollout to its end, all attempts; a failure is a `failed` rollout."""
        ...
