"""Calling what environment authors wrote without letting it block the event loop.

A coroutine function runs on the loop. A plain one runs in a thread of its own rather than in
a shared pool: one that never returns would otherwise hold a place of the pool for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Callable
from typing import Any


async def call_author_code(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Result of a coroutine function or of a plain one.

    Cancelling the caller cancels a coroutine; a thread goes on, and its result is dropped.
    """
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(answer: tuple[Any, BaseException | None]) -> None:
        if not done.done():
            done.set_result(answer)

    def run() -> None:
        answer: tuple[Any, BaseException | None]
        try:
            answer = context.run(function, *args, **kwargs), None
        except BaseException as error:
            answer = None, error
        with contextlib.suppress(RuntimeError):  # the loop is gone, and with it who asked
            loop.call_soon_threadsafe(settle, answer)

    threading.Thread(target=run, name=f"gym-ray-{function.__name__}", daemon=True).start()
    result, error = await done
    if error is not None:
        raise error
    # A plain function may return a coroutine: `functools.partial`, a decorator of the author's.
    return await result if inspect.isawaitable(result) else result
