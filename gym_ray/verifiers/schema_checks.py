"""JSON schemas, and values against them, checked without keeping the event loop.

A schema is a small program: a pattern can take years over thirty letters, and references and
alternatives can double the work at every level. Rows bring schemas, and policies bring values, so
what is not surely quick is checked in a process that is killed when it takes too long. Almost
everything is surely quick.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.json_schema import misfit, schema_problem
from gym_ray.verifiers.pool import VerifierPool

#: A check that takes longer is given up.
CHECK_SECONDS = 5.0

#: How long one may wait for others that take their time.
_QUEUE_SECONDS = 60.0

#: Words with which a check may take more than the schema's size times the value's: patterns,
#: references, and what evaluates its parts more than once. A property that is called like one takes
#: the slower way as well, and is checked no differently.
_SLOW_WORDS = re.compile(
    r'"(pattern|patternProperties|\$[a-zA-Z]*|oneOf|not|if|contains|'
    r'dependen[a-zA-Z]*|unevaluated[a-zA-Z]*|extends|disallow)"'
)

#: Characters of the schema times those of the value, up to which no word matters.
_QUICK_PRODUCT = 5_000_000


class SchemaChecks:
    """Checks schemas and values. One instance serves many rollouts at once, on one event loop after
    the other.
    """

    def __init__(self) -> None:
        self._pool: VerifierPool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()

    async def problem(self, schema: Any) -> str | None:
        """Why a schema is none; None when it is one.

        Raises:
            RolloutFailure: no process can be had.
        """
        try:
            text = json.dumps(schema)
        except RecursionError:
            return "is nested too deeply"
        if _is_quick(text, ""):
            return schema_problem(schema)
        return await self._in_process("problem", (text, ""))

    async def misfit(self, value: Any, schema: Any) -> str | None:
        """Where a value does not fit a schema and why; None when it fits.

        Raises:
            RolloutFailure: no process can be had.
            Exception: the schema cannot be applied.
        """
        schema_text, value_text = json.dumps(schema), json.dumps(value)
        if _is_quick(schema_text, value_text):
            return misfit(value, schema)
        return await self._in_process("misfit", (schema_text, value_text))

    async def stop(self) -> None:
        """End the process, if there is one."""
        pool, self._pool = self._pool, None
        if pool is not None and self._loop is asyncio.get_running_loop():
            await pool.stop()

    async def _in_process(self, name: str, texts: tuple[str, str]) -> str | None:
        pool = await self._started()
        try:
            problem, raised = await pool.call(name, texts)
        except RolloutFailure as failure:
            if failure.kind is FailureKind.VERIFIER_TIMEOUT:
                return f"the schema takes more than {CHECK_SECONDS:g} s to check"
            if failure.kind is FailureKind.VERIFIER_ERROR:
                return f"the schema cannot be checked ({failure.message})"
            raise
        if raised:
            raise ValueError(raised)
        return str(problem) if problem else None

    async def _started(self) -> VerifierPool:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._pool, self._starting = loop, None, asyncio.Lock()
        async with self._starting:
            if self._pool is None:
                pool = VerifierPool(
                    _Warm,
                    check,
                    processes=1,
                    timeout_seconds=CHECK_SECONDS,
                    queue_timeout_seconds=_QUEUE_SECONDS,
                )
                await pool.start()
                self._pool = pool
            return self._pool


def check(_: object, name: str, texts: tuple[str, str]) -> tuple[str | None, str | None]:
    """What the process is asked: the problem, and what was raised instead."""
    schema, value = texts
    try:
        if name == "problem":
            return schema_problem(json.loads(schema)), None
        return misfit(json.loads(value), json.loads(schema)), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


class _Warm:
    """What the process builds: the library takes a second to import."""

    def warm_up(self) -> None:
        schema = {"properties": {"a": {"pattern": "a"}}}
        misfit({"a": "a"}, schema)
        schema_problem(schema)


def _is_quick(schema: str, value: str) -> bool:
    return (
        max(len(schema), 1) * max(len(value), 1) <= _QUICK_PRODUCT
        and len(schema) <= _QUICK_PRODUCT // 100
        and _SLOW_WORDS.search(schema) is None
    )
