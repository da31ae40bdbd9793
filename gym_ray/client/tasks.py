"""Where the tasks of a call come from: any iterable of rows, taken one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

#: Task rows; taken from only as there is room for their rollouts.
Tasks: TypeAlias = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]


async def each(tasks: Tasks) -> AsyncIterator[Mapping[str, Any]]:
    """Tasks, one at a time. An iterator may take its time, and is asked from another thread."""
    if isinstance(tasks, AsyncIterable):
        async for task in tasks:
            yield task
    elif isinstance(tasks, Sequence):
        for task in tasks:
            yield task
    else:
        iterator = iter(tasks)
        end: Any = object()
        while (task := await asyncio.to_thread(next, iterator, end)) is not end:
            yield task
