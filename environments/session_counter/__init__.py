"""A counter of one rollout: the smallest environment with state.

Owned here: the two tools and when the counter is right. NeMo Gym's rows of
`example_session_state_mgmt` work as they are.
"""

from __future__ import annotations

import dataclasses

from gym_ray.environment import Environment, GoldStep, Outcome, TaskFields
from gym_ray.errors import ConfigError
from gym_ray.task import Task
from gym_ray.tools import tool
from gym_ray.verdict import Verdict


@dataclasses.dataclass(slots=True)
class Counter:
    """State of one rollout.

    Attributes:
        value: the count now.
        told: the count the policy was last told; None before it asks.
    """

    value: int
    told: int | None = None


class SessionCounterEnvironment(Environment):
    """Reward 1 when the counter ends at `expected_count`, else 0."""

    class Fields(TaskFields):
        initial_count: int
        """What the counter starts from."""
        expected_count: int
        """What it has to end at."""

    def check_agent(self, agent: str) -> None:
        if agent == "single_turn":
            raise ConfigError("it does not carry tools out; set agent: tool_calling")

    async def reset(self, task: Task) -> Counter:
        return Counter(self.Fields.model_validate(task.row).initial_count)

    @tool
    async def increment_counter(self, state: Counter, count: int) -> dict[str, bool]:
        """Add a number to the counter.

        Args:
            count: what to add; below 0 to take away.
        """
        state.value += count
        return {"success": True}

    @tool
    async def get_counter_value(self, state: Counter) -> dict[str, int]:
        """Tell what the counter stands at."""
        state.told = state.value
        return {"count": state.value}

    async def verify(self, outcome: Outcome) -> Verdict:
        expected = self.Fields.model_validate(outcome.task.row).expected_count
        counter: Counter = outcome.state
        return Verdict(
            float(counter.value == expected),
            metrics={"value_read": counter.told == counter.value},
        )

    def gold_answer(self, task: Task) -> list[GoldStep] | None:
        """What is missing, added at once; None where nothing is to be done."""
        fields = self.Fields.model_validate(task.row)
        missing = fields.expected_count - fields.initial_count
        if not missing:
            return None
        return [
            {"name": "increment_counter", "arguments": {"count": missing}},
            {"name": "get_counter_value", "arguments": {}},
            f"It stands at {fields.expected_count}.",
        ]
