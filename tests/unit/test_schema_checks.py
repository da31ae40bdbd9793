"""Schemas and values of strangers, checked while the event loop goes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator

from gym_ray.json_schema import misfit, schema_problem
from gym_ray.rollout import Rollout
from gym_ray.verifiers import schema_checks
from gym_ray.verifiers.schema_checks import SchemaChecks
from tests.play import results
from tests.replies import tool_calls

Play = Callable[..., Rollout]

BACKTRACKING = {"properties": {"text": {"type": "string", "pattern": "^(a+)+$"}}}
LETTERS = {"text": "a" * 40 + "!"}


def nested(depth: int) -> dict[str, Any]:
    """A schema whose check takes twice as long at every level."""
    return {"if": nested(depth - 1)} if depth else {"type": "object"}


REFERENCES = {
    "$defs": {
        str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}, {"$ref": f"#/$defs/{n + 1}"}]}
        for n in range(60)
    }
    | {"60": {"type": "string"}},
    "$ref": "#/$defs/0",
}

SLOW: list[tuple[Any, Any]] = [
    (BACKTRACKING, LETTERS),
    ({"patternProperties": {"^(a+)+$": {}}}, {"a" * 40 + "!": 1}),
    ({"propertyNames": {"pattern": "^(a|aa)+$"}}, {"a" * 60 + "!": 1}),
    (nested(60), {"a": 1}),
    (REFERENCES, {"a": 1}),
]


@pytest.mark.parametrize(("schema", "value"), SLOW)
def test_no_schema_keeps_the_event_loop_or_its_neighbors(
    schema: Any, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_checks, "CHECK_SECONDS", 2.5)

    async def scenario() -> None:
        checks = SchemaChecks()
        assert await checks.misfit({"a": "b"}, {"properties": {"a": {"pattern": "^b$"}}}) is None
        slow = asyncio.ensure_future(checks.misfit(value, schema))
        late = 0.0
        while not slow.done():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            late = max(late, time.monotonic() - before)
        await slow  # which may well be told in time
        assert late < 2.0  # less than what was given up, on however busy a machine
        problem = await checks.misfit({"a": "c"}, {"properties": {"a": {"pattern": "^b$"}}})
        assert problem is not None
        assert "does not match" in problem
        await checks.stop()

    asyncio.run(scenario())


def test_what_takes_too_long_is_told_to_the_policy(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_checks, "CHECK_SECONDS", 1.0)
    tool = {"type": "function", "name": "count", "parameters": BACKTRACKING}

    rollout = play(tool_calls(("count", LETTERS)), "Done.", params={"tools": [tool]})

    assert rollout.error is None
    assert "takes more than 1 s to check" in results(rollout)[0]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 1.5, "", "a", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=12,
)


@given(items=st.lists(VALUES, max_size=6))
def test_items_are_unique_as_the_standard_says(items: list[Any]) -> None:
    schema = {"uniqueItems": True}
    assert (misfit(items, schema) is None) == Draft202012Validator(schema).is_valid(items)


def test_many_items_are_compared_in_no_time() -> None:
    began = time.monotonic()
    mixed: list[Any] = [*range(20_000), "a", *({"a": n} for n in range(20_000))]
    assert misfit(mixed, {"uniqueItems": True}) is None
    assert schema_problem({"required": [*map(str, range(20_000)), 1]}) is not None
    assert (
        schema_problem({"enum": mixed, "$schema": "http://json-schema.org/draft-04/schema#"})
        is None
    )
    assert time.monotonic() - began < 5.0


@given(schema=st.dictionaries(st.sampled_from(["type", "enum", "minimum", "items"]), VALUES))
def test_a_process_says_of_a_schema_what_the_loop_says(schema: dict[str, Any]) -> None:
    answer = schema_checks.check(None, "problem", (json.dumps(schema), ""))
    assert answer == (schema_problem(schema), None)
