"""The rules of the format: the published models (`atif`), narrowed to what a row can hold.

Owned here: what every reader of ATIF may rely on beyond the models: versions we know, counts and
token IDs of 32 bits, finite numbers, results of a step's own calls, and no value of another type
than the format says. Not owned here: what a rollout makes of it.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import atif
import pydantic
from atif import ContentPart

#: The version we write.
SCHEMA_VERSION = "ATIF-v1.7"

Version = Literal[
    "ATIF-v1.0", "ATIF-v1.1", "ATIF-v1.2", "ATIF-v1.3", "ATIF-v1.4", "ATIF-v1.5", "ATIF-v1.6",
    "ATIF-v1.7", "ATIF-v1.8",
]  # fmt: skip

#: Rows hold counts of a turn and token IDs as int32.
Count = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
TokenId = Count
Total = Annotated[int, pydantic.Field(ge=0)]

Content = str | list[ContentPart]

_FINITE = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


class StepMetrics(atif.Metrics):
    """Metrics of one step's policy calls; `prompt_token_ids` includes the history."""

    model_config = _FINITE

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cached_tokens: Count | None = None
    prompt_token_ids: list[TokenId] | None = None
    completion_token_ids: list[TokenId] | None = None


class TrajectoryStep(atif.Step):
    """A system prompt, a message of the user, or one turn of the agent and what came back."""

    metrics: StepMetrics | None = None

    @pydantic.model_validator(mode="after")
    def _answers_its_own_calls(self) -> TrajectoryStep:
        # The published model looks only where there are calls.
        calls = {call.tool_call_id for call in self.tool_calls or ()}
        for result in self.observation.results if self.observation else ():
            if result.source_call_id is not None and result.source_call_id not in calls:
                raise ValueError(
                    f"the observation answers a call {result.source_call_id!r} that the step does "
                    "not make; leave out source_call_id, or put the result into the calling step"
                )
        return self


class FinalMetrics(atif.FinalMetrics):
    """Metrics of the whole trajectory."""

    model_config = _FINITE

    total_prompt_tokens: Total | None = None
    total_completion_tokens: Total | None = None
    total_cached_tokens: Total | None = None
    total_steps: Total | None = None


class Trajectory(atif.Trajectory):
    """One document."""

    schema_version: Version
    steps: Annotated[list[TrajectoryStep], pydantic.Field(min_length=1)]  # type: ignore[assignment]
    final_metrics: FinalMetrics | None = None


class TrajectoryRefused(Exception):
    """A document cannot be read.

    Args:
        field: where in it; "" for the whole.
        reason: what is wrong, and what to write instead.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def checked(tree: Any) -> Trajectory:
    """A parsed document as a trajectory.

    Raises:
        Refused: it breaks a rule; the first is told.
    """
    try:
        return Trajectory.model_validate(tree, strict=True)
    except pydantic.ValidationError as error:
        raise refused(error) from None


def refused(error: pydantic.ValidationError, prefix: str = "") -> TrajectoryRefused:
    """The first problem pydantic found, as a field and a reason.

    Where several types are allowed, pydantic tells what is wrong for each of them: the one that
    got furthest is meant.
    """
    problems = error.errors(include_url=False, include_input=False)
    paths = [[at for at in problem["loc"] if not _is_type(at)] for problem in problems]
    here = [n for n, path in enumerate(paths) if path[: len(paths[0])] == paths[0]]
    meant = max(here, key=lambda number: len(paths[number]))
    problem, field = problems[meant], prefix + _path(paths[meant])
    match problem["type"]:
        case "extra_forbidden":
            reason = "is no field of the format; move it into `extra`"
        case "missing":
            reason = "is missing"
        case _:
            reason = problem["msg"].removeprefix("Value error, ")
    return TrajectoryRefused(field, reason)


def time_of(text: str) -> datetime.datetime:
    """An ISO 8601 time, in UTC where it names no zone.

    Raises:
        ValueError: it is none.
    """
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no ISO 8601 time such as 2026-01-31T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def _is_type(at: int | str) -> bool:
    """Whether a part of pydantic's location is a member of a union and no field."""
    return isinstance(at, str) and (at in ("str", "float") or at.endswith("Source") or "[" in at)


def _path(parts: Sequence[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")
