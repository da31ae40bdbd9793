"""Tools of an environment: what the policy is shown of a method."""

from typing import Any

import pytest

from gym_ray.environment import Environment
from gym_ray.errors import ConfigError
from gym_ray.tools import method_tools, tool
from tests.workshop import Item, Workshop


def definition(name: str) -> dict[str, Any]:
    return method_tools(Workshop())[name].definition


def test_a_definition_is_the_signature_and_the_docstring() -> None:
    assert definition("add") == {
        "type": "function",
        "name": "add",
        "description": "Sum of two numbers.\n\nExact, whatever their size.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "the first of the two."},
                "b": {"type": "integer", "default": 1, "description": "the second."},
            },
            "required": ["a"],
            "additionalProperties": False,
        },
        "strict": False,
    }


def test_the_state_is_not_shown_to_the_policy() -> None:
    assert definition("count")["parameters"]["properties"] == {}
    assert list(definition("meet")["parameters"]["properties"]) == ["who"]


def test_arguments_may_be_models_and_are_handed_over_as_such() -> None:
    packing = method_tools(Workshop())["pack"]

    assert packing.definition["parameters"]["$defs"]["Item"]["required"] == ["name"]
    bound = packing.bind({"items": [{"name": "nail", "count": 3}]}, state=None)
    assert bound == {"items": [Item(name="nail", count=3)]}


def test_tools_stand_in_the_order_of_the_class_and_can_be_withdrawn() -> None:
    class Smaller(Workshop):
        add = None  # type: ignore[assignment]

        @tool
        async def last(self) -> None: ...

    names = list(method_tools(Smaller()))

    assert names[:2] == ["count", "meet"]
    assert names[-1] == "last"


def untyped(self: Any, a) -> None: ...  # type: ignore[no-untyped-def]
def variadic(self: Any, *a: int) -> None: ...
def unknown_type(self: Any, a: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def not_json(self: Any, a: Environment) -> None: ...


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (untyped, "argument 'a' needs a type, e.g. a: str"),
        (variadic, "cannot be passed by name"),
        (unknown_type, "its type hints cannot be read"),
        (not_json, "cannot be offered as JSON"),
    ],
)
def test_a_method_that_cannot_be_offered_is_refused(method: Any, says: str) -> None:
    class Bad(Environment):
        broken = tool(method)

    with pytest.raises(ConfigError, match=r"tool Bad\.broken") as refusal:
        method_tools(Bad())
    assert says in str(refusal.value)
