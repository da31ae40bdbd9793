"""The rows of one call, before any of them runs: what NeMo RL gives, checked as a whole.

Owned here: row indices, identities and groups, and telling all that is wrong at once, so that no
token is spent on a batch, or a group, that cannot be complete. Not owned here: what a task row
is (`gym_ray.task`), and what its environment makes of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.integrations.nemo_rl.failures import (
    FailedRow,
    GymTerminalEpisodeFailure,
    failure_of,
)
from gym_ray.integrations.nemo_rl.hosted import Hosted
from gym_ray.task import check_row, invalid, is_reserved

Identity = tuple[Any, ...]

#: Say where a row goes. NeMo RL writes the one it was told over the one it had.
_ROUTES = ("agent_ref", "task_source")


@dataclasses.dataclass(frozen=True, slots=True)
class NamedRow:
    """A row that may run.

    Attributes:
        index: its `_rowidx`.
        task: the row itself.
        environment: where it goes.
        group: rows of the same are trained on together; None where NeMo RL does not say.
        identity: names its rollout, also when it is asked for again; None where there is no name.
        content: digest of what the rollout depends on.
    """

    index: int
    task: Mapping[str, Any]
    environment: str
    group: Any
    identity: Identity | None
    content: bytes


def checked(
    rows: Sequence[Mapping[str, Any]], hosted: Hosted, *, is_group: bool = False
) -> list[NamedRow]:
    """The rows of a call.

    Args:
        rows: as NeMo RL gives them.
        hosted: the environments there are.
        is_group: whether the call is for one group.

    Raises:
        ValueError: no rows, or one without an index or identity of its own.
        GymTerminalEpisodeFailure: rows that are no legal tasks or have no environment, or a group
            that would go to two.
    """
    indices = row_indices(rows)
    found: list[NamedRow] = []
    illegal: list[FailedRow] = []
    for index, row in zip(indices, rows, strict=True):
        group = "the call" if is_group else group_of(row)
        try:
            check_row(row)
            environment, content = hosted.environment_of(row), _content(row)
        except RolloutFailure as failure:
            illegal.append(FailedRow(index, failure.kind, failure.message, group))
            continue
        found.append(NamedRow(index, row, environment, group, identity_of(row), content))
    if illegal:
        raise failure_of(illegal, len(rows))
    _refuse_mixed_groups(found)
    _refuse_shared_identities(found)
    return found


def row_indices(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """`_rowidx` of every row.

    Raises:
        ValueError: no rows, or one without an int of its own.
    """
    if not rows:
        raise ValueError("there are no rows to roll out")
    indices = [row.get("_rowidx") for row in rows]
    for position, index in enumerate(indices):
        if type(index) is not int:
            raise ValueError(
                f"row {position} of the batch has _rowidx={index!r}; it must be an int"
            )
    if len(set(indices)) < len(indices):
        raise ValueError(f"rows of the batch share a _rowidx: {indices}")
    return [index for index in indices if index is not None]


def identity_of(row: Mapping[str, Any]) -> Identity | None:
    """What names a row's rollout: `_ng_rollout_id` and its attempt, else group, the group's attempt
    and the number in the group. None for rows of versions that name neither.
    """
    if isinstance(rollout_id := row.get("_ng_rollout_id"), str) and rollout_id:
        return rollout_id, row.get("_ng_attempt_index") or 0
    group, number = row.get("_ng_group_id"), row.get("_ng_rollout_index")
    if group is None or number is None:
        return None
    return str(group), row.get("_ng_group_attempt") or 0, number


def group_of(row: Mapping[str, Any]) -> Any:
    """What the rows of a group have in common, as far as a row says."""
    if (group := row.get("_ng_group_id")) is not None:
        return str(group), row.get("_ng_group_attempt") or 0
    return row.get("_ng_task_index")


def _content(row: Mapping[str, Any]) -> bytes:
    own = {key: row[key] for key in row if not is_reserved(key) and key not in _ROUTES}
    try:
        text = json.dumps(own, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid(f"cannot be written as JSON: {one_line(error)}") from None
    return hashlib.sha256(text.encode()).digest()


def _refuse_mixed_groups(rows: Sequence[NamedRow]) -> None:
    first: dict[Any, NamedRow] = {}
    for row in rows:
        if row.group is None:
            continue
        other = first.setdefault(row.group, row)
        if other.environment != row.environment:
            raise GymTerminalEpisodeFailure(
                f"rows {other.index} and {row.index} are of one group and go to the environments "
                f"{other.environment!r} and {row.environment!r}; rewards of a group are compared, "
                "so give its rows the same agent_ref"
            )


def _refuse_shared_identities(rows: Sequence[NamedRow]) -> None:
    seen: dict[Identity, int] = {}
    for row in rows:
        if row.identity is None:
            continue
        if (other := seen.setdefault(row.identity, row.index)) != row.index:
            raise ValueError(
                f"rows {other} and {row.index} of the batch have the same identity "
                f"{row.identity}: each rollout needs a name of its own"
            )


def changed(row: NamedRow) -> FailedRow:
    """The failure of a row whose identity was another task's before."""
    return FailedRow(
        row.index,
        FailureKind.TASK_INVALID,
        f"its identity {row.identity} was given to another task before",
        row.group,
    )
