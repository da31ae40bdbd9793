"""What `run_rollouts` raises, so that NeMo RL retries what another try may cure and nothing else.

NeMo RL tells two kinds apart after the exception has crossed Ray: infrastructure (rows that did
not arrive are asked for again) and data (a row would fail again). It goes by class: connection
errors are infrastructure, what it does not know is data. Both classes carry one string, so they
survive pickling, and no cause, which might not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gym_ray.client.errors import (
    BatchConflict,
    ClientError,
    RequestRefused,
    Unauthorized,
)
from gym_ray.errors import RETRYABLE, FailureKind, one_line

#: Kinds that say nothing about the row. NeMo RL counts missed deadlines among them.
_INFRASTRUCTURE = RETRYABLE | {FailureKind.ROLLOUT_TIMEOUT}

#: Rows a message names.
_NAMED = 5


class GymTransportError(ConnectionError):
    """Rollouts are missing through no fault of theirs; asking again may bring them."""

    #: What an HTTP service would have answered; NeMo RL reads it where it sees the exception raw.
    status = 503


class RolloutDataFailure(Exception):
    """Rollouts failed that would fail again."""

    status = 422


@dataclasses.dataclass(frozen=True, slots=True)
class FailedRow:
    """A row without a result.

    Attributes:
        row_index: its `_rowidx`.
        kind: where it failed; None where it ran and the result cannot be trained on.
        message: one line for a person.
    """

    row_index: int
    kind: FailureKind | None
    message: str


def failure_of(failed: Sequence[FailedRow], rows: int) -> Exception:
    """The one exception that ends a batch of `rows` rows, some of which failed.

    Infrastructure if any row failed of that: asked for again, only the others are left, and then
    it is data.
    """
    named = "; ".join(
        f"row {row.row_index}: {row.kind or 'unusable'}: {row.message}" for row in failed[:_NAMED]
    )
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    message = f"{len(failed)} of {rows} rollouts failed: {named}{more}"
    if any(row.kind in _INFRASTRUCTURE for row in failed):
        return GymTransportError(message)
    return RolloutDataFailure(message)


def failure_of_call(error: ClientError) -> Exception:
    """A call to the service that cannot go on, as the exception NeMo RL understands."""
    message = one_line(error, limit=2000)
    if isinstance(error, Unauthorized | RequestRefused | BatchConflict):
        return RolloutDataFailure(message)
    return GymTransportError(message)
