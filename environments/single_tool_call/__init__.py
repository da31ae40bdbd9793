"""Ask for the weather, then answer: one round trip through a tool.

Owned here: the tool, whose reports are made up, and what counts as having used it. NeMo Gym's
rows of `example_single_tool_call` work as they are; they say nothing of what a right answer is,
so neither does this verifier.
"""

from __future__ import annotations

import dataclasses
import zlib

from gym_ray.environment import Environment, GoldStep, Outcome
from gym_ray.errors import ConfigError
from gym_ray.task import Task
from gym_ray.tools import tool
from gym_ray.verdict import Verdict

_CONDITIONS = ("clear", "cloudy", "foggy", "rainy", "snowy", "windy")


@dataclasses.dataclass(slots=True)
class Enquiries:
    """State of one rollout: the cities whose weather was told, in order."""

    cities: list[str] = dataclasses.field(default_factory=list)


class SingleToolCallEnvironment(Environment):
    """Reward 1 when the policy is told a city's weather and then answers in words, else 0."""

    def check_agent(self, agent: str) -> None:
        if agent == "single_turn":
            raise ConfigError("it does not carry tools out; set agent: tool_calling")

    async def reset(self, task: Task) -> Enquiries:
        return Enquiries()

    @tool
    async def get_weather(self, state: Enquiries, city: str) -> dict[str, str | int]:
        """Tell the weather in a city.

        Args:
            city: its name.
        """
        name = " ".join(city.split())
        if not name:
            raise ValueError("city is empty; name a city")
        state.cities.append(name)
        return weather_of(name)

    async def verify(self, outcome: Outcome) -> Verdict:
        told = bool(outcome.state.cities)
        answered = bool(outcome.text.strip()) and _ends_in_words(outcome)
        return Verdict(
            float(told and answered),
            metrics={"told": told, "answered": answered, "cities": len(outcome.state.cities)},
        )

    def gold_answer(self, task: Task) -> list[GoldStep]:
        """A call and an answer. Rows do not say which city is asked about, so any will do."""
        return [{"name": "get_weather", "arguments": {"city": "Lisbon"}}, "That is the weather."]


def weather_of(city: str) -> dict[str, str | int]:
    """A made-up report, the same for a city every time, whatever its case."""
    draw = zlib.crc32(city.casefold().encode())
    return {
        "city": city,
        "condition": _CONDITIONS[draw % len(_CONDITIONS)],
        "temperature_celsius": draw // 7 % 40 - 5,
        "humidity_percent": 20 + draw // 1009 % 75,
    }


def _ends_in_words(outcome: Outcome) -> bool:
    """Whether the last thing said is text: words beside a call are no answer to its result."""
    return bool(outcome.items) and outcome.items[-1]["type"] == "message"
