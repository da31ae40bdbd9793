"""What `run_rollouts` raises, so that NeMo RL retries what another try may cure and nothing else.

NeMo RL tells apart, after the exception has crossed Ray: infrastructure (rows that did not arrive
are asked for again), data (a row would fail again; the group is tried once more), and what must
not be tried again at all. It goes by class, and by its own ones first, so these become NeMo RL's
where NeMo RL reads them. All carry one string and no cause, which might not survive the way.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from gym_ray.client.errors import (
    BatchConflict,
    ClientError,
    RequestRefused,
    Unauthorized,
)
from gym_ray.errors import RETRYABLE, FailureKind, one_line

#: Kinds that say nothing about the row. NeMo RL counts missed deadlines among them.
_INFRASTRUCTURE = RETRYABLE | {FailureKind.ROLLOUT_TIMEOUT}

#: Kinds that are the row's own, whatever is sampled.
TERMINAL = frozenset({FailureKind.TASK_INVALID})

#: Rows a message names.
_NAMED = 5

#: Where NeMo RL has its classes.
_THEIRS = "nemo_rl.experience.failures"


class _Told(Exception):
    """Unpickled where NeMo RL runs, it is of NeMo RL's class of that name."""

    def __reduce__(self) -> tuple[Any, ...]:
        names = [of.__name__ for of in type(self).__mro__ if of.__module__ == __name__]
        return _as_read, (tuple(names), str(self))


class GymTransportError(_Told, ConnectionError):
    """Rollouts are missing through no fault of theirs; asking again may bring them."""

    #: What an HTTP service would have answered; NeMo RL reads it where it sees the exception raw.
    status = 503


class RolloutDataFailure(_Told):
    """Rollouts failed that would fail again."""

    status = 422


class GymTerminalEpisodeFailure(RolloutDataFailure):
    """Rollouts cannot be had, however often they are asked for: the rows themselves are wrong."""


def _as_read(names: Sequence[str], message: str) -> Exception:
    """NeMo RL's class of the first name it has, where it is loaded; else ours of the first."""
    theirs = sys.modules.get(_THEIRS)
    for place in (theirs, sys.modules[__name__]):
        for name in names:
            if not name.startswith("_") and (found := getattr(place, name, None)) is not None:
                error: Exception = found(message)
                return error
    raise AssertionError(f"no class of {names}")


@dataclasses.dataclass(frozen=True, slots=True)
class FailedRow:
    """A row without a result.

    Attributes:
        row_index: its `_rowidx`.
        kind: where it failed; None where it ran and the result cannot be trained on.
        message: one line for a person.
        group: rows of the same are trained on together; None where that is not known.
    """

    row_index: int
    kind: FailureKind | None
    message: str
    group: Any = None


def failure_of(failed: Sequence[FailedRow], rows: int) -> Exception:
    """The one exception that ends a batch of `rows` rows, some of which failed.

    Infrastructure if any row failed of that whose group can still be complete: asked for again,
    only the others are left, and then it is data. A group with a row that must not be tried again
    has no use for its others.
    """
    named = "; ".join(
        f"row {row.row_index}: {row.kind or 'unusable'}: {row.message}" for row in failed[:_NAMED]
    )
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    message = f"{len(failed)} of {rows} rollouts failed: {named}{more}"
    lost = {row.group for row in failed if row.kind in TERMINAL and row.group is not None}
    if any(row.kind in _INFRASTRUCTURE and row.group not in lost for row in failed):
        return GymTransportError(message)
    if any(row.kind in TERMINAL for row in failed):
        return GymTerminalEpisodeFailure(message)
    return RolloutDataFailure(message)


def failure_of_call(error: ClientError) -> Exception:
    """A call to the service that cannot go on, as the exception NeMo RL understands."""
    message = one_line(error, limit=2000)
    if isinstance(error, Unauthorized | RequestRefused | BatchConflict):
        return RolloutDataFailure(message)
    return GymTransportError(message)
