"""Batches: many rollouts for a client that may lose its connection, or be killed and come back.

`PUT /batches/{name}` opens a batch and makes the caller its holder; rows are given by index,
results are fetched page by page and kept until they are acknowledged. Every request may be
repeated without harm. Giving the same index again runs nothing again.

Owned here: the routes, both forms of a page, and which refusal is which status. Not owned here:
the batches themselves, which live in one place whatever gateway replica answers (`BatchBackend`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from typing import Annotated, Any

import pydantic
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from gym_ray.batches.protocol import MAX_ROWS, BatchBackend, BatchError, Opening, Refusal
from gym_ray.batches.result_page import BATCH_NAME, MEDIA_TYPE, ResultPage, encode
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.gateway import run
from gym_ray.gateway.disconnects import unless_disconnected
from gym_ray.gateway.errors import ApiError, bad_request
from gym_ray.gateway.strict_route import StrictRoute
from gym_ray.nemo_gym import output_row
from gym_ray.rollout import Rollout, RolloutSpec
from gym_ray.routing import Router
from gym_ray.task import parse_task

#: Rows, and acknowledged indices, of one request at most.
_REQUEST_ROWS = 1024
_REQUEST_INDICES = 100_000

#: How long a request for results may wait at most.
_MAX_WAIT_SECONDS = 60.0


class OpenRequest(pydantic.BaseModel):
    """A batch to open."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)

    holder: str = Field(min_length=16, max_length=200)
    """A secret drawn for this client; every later request names it."""
    lease_seconds: float = Field(30.0, ge=1, le=600)
    """Without a request for so long, what runs is given up."""
    rollout_timeout_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Deadline of one attempt, at most `collect.rollout_timeout_seconds`."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """Seed of the sampling: the same name, row and seed give the same tokens."""


class RowRequest(pydantic.BaseModel):
    """A row of a batch."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)

    index: int = Field(ge=0, lt=MAX_ROWS)
    """Identifies it in the batch."""
    task: Any
    """A task row; one that is not legal is a failed rollout."""
    task_index: int | None = Field(None, ge=0, lt=2**31)
    """Position of the task, for its row; left out, `index`."""
    rollout_index: int = Field(0, ge=0, lt=2**31)
    """Number of the repeat, for its row."""


class RowsRequest(pydantic.BaseModel):
    rows: list[RowRequest] = Field(max_length=_REQUEST_ROWS)


class IndicesRequest(pydantic.BaseModel):
    indices: list[Annotated[int, Field(ge=0, lt=MAX_ROWS)]] = Field(max_length=_REQUEST_INDICES)


def batch_routes(batches: BatchBackend, tasks: Router) -> APIRouter:
    """All routes of batches.

    Args:
        batches: reaches them.
        tasks: finds the environment of a row.
    """
    router = APIRouter(prefix="/batches", route_class=_Refusing, tags=["batches"])

    @router.put("/{name}", summary="Open a batch, or take it over")
    async def open_batch(name: str, body: OpenRequest) -> dict[str, Any]:
        _check(name)
        state = await batches.open(name, Opening(**body.model_dump()))
        return {**dataclasses.asdict(state), "lease_seconds": body.lease_seconds}

    @router.get("/{name}", summary="How a batch stands")
    async def batch_state(name: str) -> dict[str, Any]:
        return dataclasses.asdict(await batches.state(name))

    @router.delete("/{name}", status_code=204, summary="Give a batch up and forget it")
    async def delete_batch(name: str, holder: str | None = None) -> None:
        await batches.delete(name, holder)

    @router.post("/{name}/tasks", summary="Give rows to a batch")
    async def submit(name: str, body: RowsRequest, holder: str) -> dict[str, Any]:
        rows = [(row.index, _spec_of(row, tasks)) for row in body.rows]
        return {"acknowledged": await batches.submit(name, holder, rows)}

    @router.get(
        "/{name}/results",
        summary="Results that were not acknowledged",
        response_class=Response,
        responses={200: {"content": {"application/json": {}, MEDIA_TYPE: {}}}},
    )
    async def results(
        name: str,
        request: Request,
        holder: str,
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        wait: Annotated[float, Query(ge=0, le=_MAX_WAIT_SECONDS)] = 0.0,
    ) -> Response:
        """Answers when there is one, or after `wait` seconds: as an Arrow stream where `Accept`
        says so, else as JSON. Ask for what comes next with `after` set to the `cursor`.
        """
        page = await unless_disconnected(
            request.receive, batches.results(name, holder, after, wait)
        )
        if MEDIA_TYPE in request.headers.get("accept", ""):
            return Response(await asyncio.to_thread(encode, page), media_type=MEDIA_TYPE)
        text = await asyncio.to_thread(_json_of, page)
        return Response(text, media_type="application/json")

    @router.post("/{name}/acknowledge", status_code=204, summary="Results were received")
    async def acknowledge(name: str, body: IndicesRequest, holder: str) -> None:
        await batches.acknowledge(name, holder, body.indices)

    @router.post("/{name}/release", status_code=204, summary="Give up what runs")
    async def release(name: str, holder: str) -> None:
        await batches.release(name, holder)

    return router


class _Refusing(StrictRoute):
    """Routes whose `BatchError`s are answered as errors."""

    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()

        async def refusing(request: Request) -> Response:
            try:
                return await handle(request)
            except BatchError as error:
                raise _api_error(error) from None

        return refusing


#: Status, and class of the error as OpenAI names it.
_STATUS: dict[Refusal, tuple[int, str]] = {
    "unknown": (404, "invalid_request_error"),
    "released": (409, "invalid_request_error"),
    "taken": (409, "invalid_request_error"),
    "content": (409, "invalid_request_error"),
    "full": (429, "rate_limit_error"),
    "long": (400, "invalid_request_error"),
}


def _api_error(error: BatchError) -> ApiError:
    status, kind = _STATUS[error.refusal]
    return ApiError(status, error.message, code=f"batch_{error.refusal}", type=kind)


def _check(name: str) -> None:
    if not BATCH_NAME.fullmatch(name):
        raise bad_request("a batch is named by 1 to 200 letters, digits and . _ : -", param="name")


def _spec_of(row: RowRequest, tasks: Router) -> RolloutSpec:
    """The rollout of a row; a row that is no legal task says so in `error`."""
    text = json.dumps(row.task, ensure_ascii=False)
    spec = RolloutSpec(
        rollout_id="",
        task_id=hashlib.sha256(text.encode()).hexdigest(),
        task_index=row.index if row.task_index is None else row.task_index,
        rollout_index=row.rollout_index,
        environment="",
        source_file=run.SOURCE,
        source_line=0,
        task=text,
    )
    try:
        task = parse_task(text, task_index=0, source_file=run.SOURCE, source_line=0)
        environment = tasks.find(task.row)
    except RolloutFailure as failure:
        return dataclasses.replace(spec, error=failure.message)
    return dataclasses.replace(spec, task_id=task.task_id, environment=environment)


def _json_of(page: ResultPage) -> str:
    results = [
        f'{{"index": {index}, {_json_of_rollout(rollout)}}}' for index, rollout in page.results
    ]
    return (
        f'{{"cursor": {page.cursor}, "pending": {page.pending}, "results": [{", ".join(results)}]}}'
    )


def _json_of_rollout(rollout: Rollout) -> str:
    """`result` with NeMo Gym's row, or `error`."""
    if rollout.error_kind is not None:
        failure = RolloutFailure(rollout.error_kind, rollout.error or "no reason given")
    else:
        try:
            return f'"result": {json.dumps(output_row(rollout))}'
        except (ValueError, RecursionError) as error:
            failure = RolloutFailure(FailureKind.ENVIRONMENT_ERROR, one_line(error))
    return f'"error": {json.dumps(run.error_of(failure)["error"])}'
