"""A game for tests that goes on, in turns or asleep, for as long as a file is there."""

import asyncio
import os

from gym_ray import Step, Task, TaskFields
from gym_ray.environment import GymnasiumEnvironment


class Waiting(GymnasiumEnvironment):
    """Rewarded with nothing; its time is what matters.

    Row fields: `starts` (a file that gets a line when the game starts), `asleep_while` (a path:
    `reset` waits until nothing is there), `playing_while` (a path: turns go on until nothing is
    there).
    """

    class Fields(TaskFields):
        starts: str
        asleep_while: str = "/nowhere"
        playing_while: str = "/nowhere"

    async def reset(self, task: Task) -> str:
        with open(task["starts"], "a") as starts:  # noqa: ASYNC230
            starts.write("\n")
        while os.path.exists(task.row.get("asleep_while", "/nowhere")):  # noqa: ASYNC240, ASYNC110
            await asyncio.sleep(0.05)
        playing_while: str = task.row.get("playing_while", "/nowhere")
        return playing_while

    async def step(self, state: str, action: str) -> Step:
        return Step("Go on.", done=not os.path.exists(state))  # noqa: ASYNC240
