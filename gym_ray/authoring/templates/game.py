"""A game: the environment has a turn of its own after each of the policy's."""

from __future__ import annotations

from string import Template

from gym_ray.authoring.templates.files import TemplateFiles, config_of, readme_of, scripted_of

_CODE = Template('''\
"""$title: a number to guess, and what each guess is worth."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated

import pydantic
from gym_ray import GoldStep, GymnasiumEnvironment, Step, Task, TaskFields


@dataclasses.dataclass(slots=True)
class Game:
    """State of one rollout."""

    secret: int
    guesses: int = 0


class $class_name(GymnasiumEnvironment):
    """Reward 1 for the right number at the first guess, less for each that was wrong before.

    Args:
        guesses: how many there are; after the last wrong one the game is lost, reward 0.
    """

    class Fields(TaskFields):
        """Checked in every row before any token is spent."""

        secret: Annotated[int, pydantic.Field(ge=1, le=100)]

    def __init__(self, *, guesses: int = 8) -> None:
        self._guesses = guesses

    async def reset(self, task: Task) -> Game:
        return Game(task["secret"])

    async def observe(self, task: Task, state: Game) -> str:
        """What the policy is told after the task's own messages, before its first turn."""
        return f"My number is between 1 and 100. You have {self._guesses} guesses."

    async def step(self, state: Game, action: str) -> Step:
        """The environment's turn: what the policy said, and what it is told."""
        state.guesses += 1
        info = {"guesses": state.guesses}
        numbers = re.findall(r"\\d+", action)
        guess = int(numbers[-1][:9]) if numbers else None
        if guess == state.secret:
            reward = 1.0 - (state.guesses - 1) / self._guesses
            return Step("Right!", reward=reward, done=True, info={**info, "right": 1})
        if state.guesses == self._guesses:
            text = f"No. It was {state.secret}."
            return Step(text, done=True, info={**info, "right": 0})
        if guess is None:
            return Step("Say a number, please.", info=info)
        return Step("Lower." if guess > state.secret else "Higher.", info=info)

    def gold_answer(self, task: Task) -> list[GoldStep]:
        """What a perfect policy says, turn by turn; `gym-ray env check` plays it."""
        return [str(task["secret"])]
''')

_SECTION = "    agent_options: {max_turns: 12}\n    params: {guesses: 8}\n"

TEMPLATE = TemplateFiles(
    code=_CODE,
    config=config_of(_SECTION, model_len=2048, output_tokens=32),
    scripted=scripted_of(_SECTION, ' ["50", "25", "75", "12", "37", "62", "87", "100"]'),
    readme=readme_of(
        "`secret` (required): the number, from 1 to 100.",
        "`guesses`: how many were made. `right`: the number was found.",
    ),
    rows=[
        {
            "responses_create_params": {"input": "Guess my number. Say one number at a time."},
            "secret": secret,
        }
        for secret in (50, 25, 75, 1, 100, 37, 62, 88)
    ],
)
