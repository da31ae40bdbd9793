"""Environments for a policy of random weights: rewards that vary with any text it may say."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gym_ray import Environment, GymnasiumEnvironment, Outcome, Step, Task, tool

#: How many actions `Talk` takes.
STEPS = 3


class Letters(Environment):
    """Reward 1 when the text has an odd number of letters."""

    async def verify(self, outcome: Outcome) -> float:
        return _is_odd(outcome.text)


class Talk(GymnasiumEnvironment):
    """Three times: say something of an odd number of letters."""

    async def reset(self, task: Task) -> list[str]:
        return []

    async def step(self, state: list[str], action: str) -> Step:
        state.append(action)
        odd = _is_odd(action)
        return Step(
            "Odd. Go on." if odd else "Even. Again.",
            reward=odd / STEPS,
            done=len(state) == STEPS,
        )


class Desk(Letters):
    """The same, after calling these."""

    @tool
    async def add(
        self, first: Annotated[int, Field(ge=0, le=9)], second: Annotated[int, Field(ge=0, le=9)]
    ) -> int:
        """Add two digits."""
        return first + second

    @tool
    async def note(self, text: Annotated[str, Field(max_length=8)]) -> str:
        """Write a note."""
        return f"Noted: {text}"


def _is_odd(text: str) -> float:
    return float(sum(map(str.isalpha, text)) % 2)
