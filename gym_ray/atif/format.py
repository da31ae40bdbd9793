"""The rules of the format: which fields a trajectory has, of which types, and what goes together.

Owned here: what every reader of ATIF may rely on. Not owned here: what a rollout makes of it.
Fields the format does not know are refused, as Harbor's own models do; `extra` takes them.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pydantic

#: The version we write.
SCHEMA_VERSION = "ATIF-v1.7"

Version = Literal[
    "ATIF-v1.0", "ATIF-v1.1", "ATIF-v1.2", "ATIF-v1.3", "ATIF-v1.4", "ATIF-v1.5", "ATIF-v1.6",
    "ATIF-v1.7", "ATIF-v1.8",
]  # fmt: skip

#: What only a step of the agent may have.
_AGENTS_OWN = ("model_name", "reasoning_effort", "reasoning_content", "tool_calls", "metrics")

Extra = dict[str, Any] | None
#: Rows hold counts of a turn and token IDs as int32.
Count = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
TokenId = Count
Total = Annotated[int, pydantic.Field(ge=0)]


class _Object(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StepContentPart(_Object):
    """Text, or a picture or sound by reference."""

    type: Literal["text", "image", "audio"]
    text: str | None = None
    source: dict[str, Any] | None = None

    @pydantic.model_validator(mode="after")
    def _has_what_its_type_says(self) -> StepContentPart:
        if (self.type == "text") != (self.text is not None):
            raise ValueError("a part has `text` exactly when its type is text")
        if (self.type == "text") == (self.source is not None):
            raise ValueError("a part has `source` exactly when its type is image or audio")
        return self


Content = str | list[StepContentPart]


class StepToolCall(_Object):
    """One call of a tool."""

    tool_call_id: str
    function_name: str
    arguments: dict[str, Any]
    extra: Extra = None


class Result(_Object):
    """What came back; without `source_call_id`, of something that was no tool call."""

    source_call_id: str | None = None
    content: Content | None = None
    subagent_trajectory_ref: list[dict[str, Any]] | None = None
    extra: Extra = None


class Observation(_Object):
    """What came back of one step."""

    results: list[Result]


class StepMetrics(_Object):
    """Metrics of one step's policy calls; `prompt_token_ids` includes the history."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cached_tokens: Count | None = None
    cost_usd: float | None = None
    prompt_token_ids: list[TokenId] | None = None
    completion_token_ids: list[TokenId] | None = None
    logprobs: list[float] | None = None
    extra: Extra = None


class TrajectoryStep(_Object):
    """A system prompt, a message of the user, or one turn of the agent and what came back."""

    step_id: int
    timestamp: str | None = None
    source: Literal["system", "user", "agent"]
    model_name: str | None = None
    reasoning_effort: str | float | None = None
    message: Content
    reasoning_content: str | None = None
    tool_calls: list[StepToolCall] | None = None
    observation: Observation | None = None
    metrics: StepMetrics | None = None
    is_copied_context: bool | None = None
    llm_call_count: Count | None = None
    extra: Extra = None

    @pydantic.field_validator("timestamp")
    @classmethod
    def _is_a_time(cls, text: str | None) -> str | None:
        if text is not None:
            time_of(text)
        return text

    @pydantic.model_validator(mode="after")
    def _keeps_to_its_source(self) -> TrajectoryStep:
        if self.source != "agent":
            for name in _AGENTS_OWN:
                if getattr(self, name) is not None:
                    raise ValueError(f"a step of the {self.source} has no `{name}`; leave it out")
        elif self.llm_call_count == 0 and (self.metrics or self.reasoning_content is not None):
            raise ValueError("no model was called (llm_call_count 0): leave out its metrics")
        calls = {call.tool_call_id for call in self.tool_calls or ()}
        for result in self.observation.results if self.observation else ():
            if result.source_call_id is not None and result.source_call_id not in calls:
                raise ValueError(
                    f"the observation answers a call {result.source_call_id!r} that the step does "
                    "not make; leave out source_call_id, or put the result into the calling step"
                )
        return self


class Agent(_Object):
    """What acted."""

    name: str
    version: str
    model_name: str | None = None
    tool_definitions: list[dict[str, Any]] | None = None
    extra: Extra = None


class FinalMetrics(_Object):
    """Metrics of the whole trajectory."""

    total_prompt_tokens: Total | None = None
    total_completion_tokens: Total | None = None
    total_cached_tokens: Total | None = None
    total_cost_usd: float | None = None
    total_steps: Total | None = None
    extra: Extra = None


class Trajectory(_Object):
    """One document."""

    schema_version: Version
    session_id: str | None = None
    trajectory_id: str | None = None
    agent: Agent
    steps: Annotated[list[TrajectoryStep], pydantic.Field(min_length=1)]
    notes: str | None = None
    final_metrics: FinalMetrics | None = None
    continued_trajectory_ref: str | None = None
    subagent_trajectories: list[dict[str, Any]] | None = None
    extra: Extra = None

    @pydantic.model_validator(mode="after")
    def _numbers_its_steps(self) -> Trajectory:
        for number, step in enumerate(self.steps, start=1):
            if step.step_id != number:
                raise ValueError(f"step {number} has step_id {step.step_id}; count from 1")
        return self


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
        return Trajectory.model_validate(tree)
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
    return isinstance(at, str) and (at in ("str", "float") or "[" in at)


def _path(parts: Sequence[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")
