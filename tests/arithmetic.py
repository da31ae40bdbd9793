"""An environment for tests: sums, with row fields that make it misbehave on request."""

import asyncio
import os
import time

from gym_ray import Environment, FailureKind, Outcome, RolloutFailure, Task, TaskFields


class Arithmetic(Environment):
    """Reward 1 for the right sum.

    Row fields beside `expected_answer`: `starts` (a file that gets a line when it starts),
    `reset_exits` (ends its replica), `reset_seconds`, `reset_waits_while` (a path that exists),
    `reset_error` (a message),
    `reset_sandbox_error_while` (a path that exists), `verify` (`hang`, `crash`, `raise`).
    """

    class Fields(TaskFields):
        expected_answer: str

    async def reset(self, task: Task) -> None:
        if "starts" in task.row:
            with open(task["starts"], "a") as starts:  # noqa: ASYNC230
                starts.write("\n")
        if "reset_exits" in task.row:
            os._exit(1)
        await asyncio.sleep(task.row.get("reset_seconds", 0.0))
        while os.path.exists(task.row.get("reset_waits_while", "/nowhere")):  # noqa: ASYNC240, ASYNC110
            await asyncio.sleep(0.05)
        if "reset_error" in task.row:
            raise ValueError(task["reset_error"])
        if os.path.exists(task.row.get("reset_sandbox_error_while", "/nowhere")):  # noqa: ASYNC240
            raise RolloutFailure(FailureKind.SANDBOX_ERROR, "the sandbox is not there")

    def verify(self, outcome: Outcome) -> float:
        behavior = outcome.task.row.get("verify")
        if behavior == "hang":
            time.sleep(3600)
        if behavior == "crash":
            os._exit(1)
        if behavior == "raise":
            raise ValueError("this verifier raises")
        return float(outcome.text == outcome.task["expected_answer"])
