"""An office of emails, calendar, web analytics, projects and customers, judged by what changed.

Owned here: when a rollout did what was asked. Not owned here: the tables (`tables.py`) and the
tools, one file per part of the office. NeMo Gym's rows of `workplace_assistant` work as they are
over the tables they were written for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from gym_ray.environment import Environment, GoldStep, Outcome, TaskFields
from gym_ray.environments.workplace.customers import CustomerTools
from gym_ray.environments.workplace.directory import DirectoryTools
from gym_ray.environments.workplace.emails import EmailTools
from gym_ray.environments.workplace.entries import Refusal
from gym_ray.environments.workplace.events import CalendarTools
from gym_ray.environments.workplace.projects import ProjectTools
from gym_ray.environments.workplace.tables import Change, Database, shared_tables
from gym_ray.environments.workplace.visits import AnalyticsTools
from gym_ray.errors import ConfigError, one_line
from gym_ray.task import Task, invalid
from gym_ray.tools import method_tools
from gym_ray.verdict import Verdict

#: The tables that come along; small ones, of a company of six.
OWN_TABLES = Path(__file__).parent / "data" / "tables"

#: Calls that can change something; a row whose only such calls change nothing is a mistake.
_CHANGING = ("send", "delete", "forward", "reply", "create", "update", "add")


class WorkplaceEnvironment(
    DirectoryTools,
    EmailTools,
    CalendarTools,
    AnalyticsTools,
    ProjectTools,
    CustomerTools,
    Environment,
):
    """Reward 1 when the tables end up as `ground_truth` would leave them, else 0.

    Args:
        tables: absolute path of a folder with the six CSV files; the own tables when None.
    """

    class Fields(TaskFields):
        class Call(TaskFields):
            name: str
            arguments: dict[str, Any]

            @pydantic.field_validator("arguments", mode="before")
            @classmethod
            def _from_json(cls, arguments: object) -> object:
                if not isinstance(arguments, str):
                    return arguments
                try:
                    return json.loads(arguments)
                except (ValueError, RecursionError):
                    raise ValueError("is not JSON") from None

        ground_truth: list[Call]
        """Calls that do what is asked; none where the right thing is to change nothing."""

    def __init__(self, *, tables: str | None = None) -> None:
        self._shared = shared_tables(tables or str(OWN_TABLES))
        self._tools = method_tools(self)

    def check_task(self, row: Mapping[str, Any]) -> None:
        super().check_task(row)
        for index, call in enumerate(self.Fields.model_validate(dict(row)).ground_truth):
            if call.name not in self._tools:
                raise invalid(
                    f"field 'ground_truth.{index}.name': there is no tool {call.name!r}; "
                    f"tools: {', '.join(self._tools)}"
                )

    def check_agent(self, agent: str) -> None:
        if agent == "single_turn":
            raise ConfigError("it does not carry tools out; set agent: tool_calling")

    async def reset(self, task: Task) -> Database:
        await self._expected(task)  # A task nobody could solve is refused before it costs tokens.
        return Database(self._shared)

    async def verify(self, outcome: Outcome) -> Verdict:
        expected = await self._expected(outcome.task)
        made: Counter[Change] = outcome.state.changes()
        return Verdict(
            float(made == expected),
            metrics={
                "changes_expected": expected.total(),
                "changes_missing": (expected - made).total(),
                "changes_unwanted": (made - expected).total(),
            },
        )

    def gold_answer(self, task: Task) -> list[GoldStep] | None:
        """The calls of the ground truth; None where the right thing is to change nothing."""
        calls = self.Fields.model_validate(task.row).ground_truth
        return [*(call.model_dump() for call in calls), "Done."] if calls else None

    async def _expected(self, task: Task) -> Counter[Change]:
        """What the ground truth changes.

        Raises:
            RolloutFailure: `task_invalid`: a call cannot be carried out, or all that are meant to
                change something change nothing, so that doing nothing would be right.
        """
        database = Database(self._shared)
        calls = self.Fields.model_validate(task.row).ground_truth
        for index, call in enumerate(calls):
            method = self._tools[call.name]
            try:
                await method.method(**method.bind(call.arguments, database))
            except (Refusal, pydantic.ValidationError) as error:
                raise invalid(
                    f"field 'ground_truth.{index}': {call.name} cannot be carried out: "
                    f"{one_line(error)}"
                ) from error
        changes = database.changes()
        if not changes and any(_can_change(call.name) for call in calls):
            raise invalid("field 'ground_truth' changes nothing, though its calls are made to")
        return changes


def _can_change(tool_name: str) -> bool:
    return any(word in _CHANGING for word in tool_name.split("_"))
