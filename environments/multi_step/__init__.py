"""Look values up one by one, then hand them in: a chain of dependent tool calls.

Owned here: the two tools and how a list handed in is judged. NeMo Gym's rows of
`example_multi_step` work as they are.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Self

import pydantic

from gym_ray.environment import Environment, GoldStep, Outcome, TaskFields
from gym_ray.errors import ConfigError
from gym_ray.task import Task
from gym_ray.tools import tool
from gym_ray.verdict import Verdict


@dataclasses.dataclass(slots=True)
class Extraction:
    """State of one rollout.

    Attributes:
        looked_up: texts whose value was told, in order.
        handed_in: the values handed in last; None before.
    """

    looked_up: list[str] = dataclasses.field(default_factory=list)
    handed_in: list[int] | None = None


class MultiStepEnvironment(Environment):
    """Reward 1 when the values handed in last are those expected, in their order, else 0."""

    class Fields(TaskFields):
        expected_synonyms: Annotated[list[str], pydantic.Field(min_length=1)]
        """What is to be looked up, in order."""
        expected_synonym_values: list[int]
        """Their values, in the same order."""
        minefield_label: str | None = None
        """The term itself, whose value is not asked for."""
        minefield_label_value: int | None = None

        @pydantic.model_validator(mode="after")
        def _values_are_the_tools(self) -> Self:
            told = [value_of(synonym) for synonym in self.expected_synonyms]
            if self.expected_synonym_values != told:
                raise ValueError(
                    f"expected_synonym_values are {self.expected_synonym_values}, but the tool "
                    f"tells {told} for expected_synonyms: no reply could be right"
                )
            return self

    def check_agent(self, agent: str) -> None:
        if agent == "single_turn":
            raise ConfigError("it does not carry tools out; set agent: tool_calling")

    async def reset(self, task: Task) -> Extraction:
        return Extraction()

    @tool
    async def get_synonym_value(self, state: Extraction, synonym: str) -> dict[str, int]:
        """Tell the value of a synonym.

        Args:
            synonym: as it is written in the list.
        """
        state.looked_up.append(synonym)
        return {"synonym_value": value_of(synonym)}

    @tool
    async def extract_synonym_values(
        self, state: Extraction, synonym_values: list[int]
    ) -> dict[str, bool]:
        """Hand in the values of the relevant term's synonyms; the last list handed in counts.

        Args:
            synonym_values: in the order of the list.
        """
        state.handed_in = synonym_values
        return {"success": True}

    async def verify(self, outcome: Outcome) -> Verdict:
        fields = self.Fields.model_validate(outcome.task.row)
        state: Extraction = outcome.state
        expected, found = fields.expected_synonym_values, state.handed_in or []
        return Verdict(
            float(found == expected),
            metrics={
                "handed_in": state.handed_in is not None,
                "looked_up_share": _share(fields.expected_synonyms, state.looked_up),
                "values_share": _share(expected, found),
                "order_wrong": found != expected and sorted(found) == sorted(expected),
                "label_handed_in": fields.minefield_label_value in found,
            },
        )

    def gold_answer(self, task: Task) -> list[GoldStep]:
        """Every synonym looked up, then their values handed in."""
        fields = self.Fields.model_validate(task.row)
        return [
            *(
                {"name": "get_synonym_value", "arguments": {"synonym": synonym}}
                for synonym in fields.expected_synonyms
            ),
            {
                "name": "extract_synonym_values",
                "arguments": {"synonym_values": fields.expected_synonym_values},
            },
            "Done.",
        ]


def value_of(synonym: str) -> int:
    """The value the tool tells: the sum of the text's code points, as NeMo Gym's rows have it."""
    return sum(map(ord, synonym))


def _share(wanted: list[int] | list[str], found: list[int] | list[str]) -> float:
    return sum(value in found for value in wanted) / len(wanted)
