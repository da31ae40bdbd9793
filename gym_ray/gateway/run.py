"""`POST /run`: one whole rollout over HTTP, request and response in NeMo Gym's row shapes.

Owned here: routing a row, the response row, and which failure is which status. Not owned here:
where rollouts run and how they are retried (`RunBackend`), many rows at once (`batches.py`).
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from gym_ray.batches.protocol import RunBackend
from gym_ray.errors import RETRYABLE, FailureKind, RolloutFailure
from gym_ray.gateway.disconnects import unless_disconnected
from gym_ray.nemo_gym import numbers_in, output_row
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.routing import Router
from gym_ray.task import invalid, parse_task

#: Where rows over HTTP say they come from.
SOURCE = "http"

#: Below this many token IDs and logprobs a row is written in less time than a hop to a thread.
_INLINE_NUMBERS = 8192

#: Status of a failed rollout. Retryable kinds are the server's trouble and worth another try;
#: all else would fail again, which is the row's or the environment's doing.
_STATUS = {
    FailureKind.TASK_INVALID: 400,
    FailureKind.POLICY_REJECTED: 400,
    FailureKind.ROLLOUT_TIMEOUT: 504,
    **dict.fromkeys(RETRYABLE, 503),
}
_DETERMINISTIC_STATUS = 422


def run_router(backend: RunBackend, tasks: Router) -> APIRouter:
    """The route.

    Args:
        backend: runs the rollouts.
        tasks: finds the environment of a row.
    """
    router = APIRouter()

    @router.post("/run", summary="Run one rollout", responses=_RESPONSES, openapi_extra=_REQUEST)
    async def run(request: Request) -> Response:
        """One whole rollout of the task row in the body; answers with NeMo Gym's output row."""
        try:
            rollout = run_row(backend, tasks, await request.body())
            text = await unless_disconnected(request.receive, rollout)
        except RolloutFailure as failure:
            return Response(
                json.dumps(error_of(failure)), status_of(failure), media_type="application/json"
            )
        return Response(text, media_type="application/json")

    return router


async def run_row(backend: RunBackend, tasks: Router, row: bytes) -> str:
    """Run the rollout of one task row.

    Args:
        backend, tasks: as `run_router`.
        row: the row's JSON.

    Returns:
        JSON of the output row. `_ng_task_index` and `_ng_rollout_index` are in it when they
        are in the task row.

    Raises:
        RolloutFailure: the rollout failed, or the row is not a legal task.
    """
    spec, reserved = _spec_of(row, tasks)
    rollout = await backend.run(spec)
    if rollout.error_kind is not None:
        raise RolloutFailure(rollout.error_kind, rollout.error or "no reason given")
    if numbers_in(rollout) < _INLINE_NUMBERS:
        return _json_of(rollout, reserved)
    return await asyncio.to_thread(_json_of, rollout, reserved)


def status_of(failure: RolloutFailure) -> int:
    """HTTP status of a failed rollout."""
    return _STATUS.get(failure.kind, _DETERMINISTIC_STATUS)


def error_of(failure: RolloutFailure) -> dict[str, Any]:
    """A failed rollout as OpenAI writes errors; `code` is the failure's kind."""
    invalid = status_of(failure) == 400
    return {
        "error": {
            "message": failure.message,
            "type": "invalid_request_error" if invalid else "rollout_failed",
            "param": None,
            "code": str(failure.kind),
        }
    }


#: Keys that are only echoed: a row over HTTP has no position of its own.
_INDICES = ("_ng_task_index", "_ng_rollout_index")


def _spec_of(row: bytes, tasks: Router) -> tuple[RolloutSpec, set[str]]:
    """The rollout a row asks for, and which of `_INDICES` the row has."""
    try:
        text = row.decode()
    except UnicodeDecodeError as error:
        raise invalid(f"is not UTF-8 text ({error.reason} at byte {error.start})") from None
    # As text: of bytes, JSON's parser would take other encodings, which nothing later does.
    task = parse_task(text, task_index=0, source_file=SOURCE, source_line=0)
    spec = RolloutSpec(
        # Of its own, not of the task: the same row may be asked for many times at once.
        rollout_id=uuid.uuid4().hex,
        task_id=task.task_id,
        task_index=_index(task.row.get("_ng_task_index")),
        rollout_index=_index(task.row.get("_ng_rollout_index")),
        environment=tasks.find(task.row),
        source_file=SOURCE,
        source_line=0,
        task=text,
    )
    return spec, {name for name in _INDICES if name in task.row}


def _index(value: Any) -> int:
    """A caller's index, as far as a row's int32 column can hold it."""
    return value if type(value) is int and 0 <= value < 2**31 else 0


def _json_of(rollout: Rollout, reserved: set[str]) -> str:
    row = output_row(rollout)
    for name in _INDICES:
        if name not in reserved:
            del row[name]
    try:
        return json.dumps(row)
    except RecursionError:
        raise RolloutFailure(
            FailureKind.TASK_INVALID, "is JSON nested too deeply to be sent back"
        ) from None


_ROW = {
    "type": "object",
    "required": ["responses_create_params"],
    "properties": {
        "responses_create_params": {
            "type": "object",
            "required": ["input"],
            "properties": {
                "input": {
                    "anyOf": [
                        {"type": "string", "minLength": 1},
                        {"type": "array", "minItems": 1, "items": {"type": "object"}},
                    ]
                }
            },
        },
        "agent_ref": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}},
                },
            ]
        },
    },
}
_REQUEST: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _ROW}}}
}
_ERROR: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                }
            },
        }
    }
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "NeMo Gym's output row."},
    400: {"description": "The row is not a legal task, or its prompt is too long."},
    422: {"description": "Environment or verifier failed, and would again."},
    503: {"description": "Policy or environment could not be reached, after all attempts."},
    504: {"description": "Not finished within `collect.rollout_timeout_seconds`."},
}
for _code in (400, 422, 503, 504):
    _RESPONSES[_code]["content"] = _ERROR
