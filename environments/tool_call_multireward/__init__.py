"""One tool call judged in three components, for training with a reward per component (GDPO).

Owned here: what the components are. The call is judged, not carried out. NeMo Gym's rows of
`example_tool_call_multireward` work as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from gym_ray.environment import Environment, GoldStep, Outcome, TaskFields
from gym_ray.errors import ConfigError
from gym_ray.task import Task, invalid
from gym_ray.verdict import Verdict

#: Weights of the components. They add up to 1 and are exact in binary, and so is every sum.
FORMAT_WEIGHT, NAME_WEIGHT, ARGUMENTS_WEIGHT = 0.25, 0.25, 0.5


class ToolCallMultirewardEnvironment(Environment):
    """Reward from 0 to 1 in three components: `format`, `name` and `arguments` of the call."""

    class Fields(TaskFields):
        class Call(TaskFields):
            name: Annotated[str, pydantic.Field(min_length=1)]
            arguments: dict[str, Any]

        expected_call: Call

    def check_task(self, row: Mapping[str, Any]) -> None:
        super().check_task(row)
        offered = [tool["name"] for tool in row["responses_create_params"].get("tools") or []]
        name = row["expected_call"]["name"]
        if name not in offered:
            raise invalid(
                f"field 'expected_call.name' is {name!r}, none of the tools in "
                f"responses_create_params.tools ({', '.join(offered) or 'there are none'})"
            )

    def check_agent(self, agent: str) -> None:
        if agent != "single_turn":
            raise ConfigError("the call is judged, not carried out; set agent: single_turn")

    async def verify(self, outcome: Outcome) -> Verdict:
        expected = self.Fields.model_validate(outcome.task.row).expected_call
        calls = [item for item in outcome.items if item["type"] == "function_call"]
        # The first call is judged: to try many costs the format and gains nothing.
        arguments = _arguments(calls[0]) if calls else None
        is_form = len(calls) == 1 and arguments is not None and not outcome.text.strip()
        is_name = arguments is not None and calls[0]["name"] == expected.name
        share = _share(arguments, expected.arguments) if is_name and arguments is not None else 0.0
        components = {
            "format": FORMAT_WEIGHT * is_form,
            "name": NAME_WEIGHT * is_name,
            "arguments": ARGUMENTS_WEIGHT * share,
        }
        return Verdict(sum(components.values()), components, {"calls": len(calls)})

    def gold_answer(self, task: Task) -> list[GoldStep]:
        """The expected call."""
        return [task["expected_call"]]


def _arguments(call: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of a call; None when it could not be read, or they are not a JSON object."""
    if call.get("status") == "incomplete":
        return None
    try:
        arguments = json.loads(call["arguments"])
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None


def _share(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Share of the arguments, missing and needless ones included, that are as expected."""
    names = {*found, *expected}
    if not names:
        return 1.0
    right = [name in found and name in expected and _same(found[name], expected[name])
             for name in names]  # fmt: skip
    return sum(right) / len(names)


def _same(found: Any, expected: Any) -> bool:
    """Equality as JSON: `1` is `1.0` but not `true`. Case and white space of text do not count."""
    if isinstance(found, str) and isinstance(expected, str):
        return found.casefold().split() == expected.casefold().split()
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            _same(found[name], expected[name]) for name in found
        )
    return bool(found == expected)
