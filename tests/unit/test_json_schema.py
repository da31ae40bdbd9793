"""Whether values fit a schema: multiples of decimals, as they are written."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from gym_ray.json_schema import misfit, schema_problem

STEPS = ["0.01", "0.1", "0.05", "0.25", "0.001", "1e-7", "0.3", "2.5", "1", "7", "1e3"]


@hypothesis.given(step=st.sampled_from(STEPS), count=st.integers(-(10**9), 10**9))
def test_a_multiple_is_one_as_it_is_written_and_a_number_between_is_none(
    step: str, count: int
) -> None:
    schema = {"type": "number", "multipleOf": json.loads(step)}
    multiple = Decimal(step) * count
    between = multiple + Decimal(step) / 2
    # A float holds 15 digits of any decimal.
    hypothesis.assume(len(multiple.normalize().as_tuple().digits) <= 14)
    assert misfit(json.loads(f"{multiple:f}"), schema) is None
    assert misfit(json.loads(f"{between:f}"), schema) is not None


@pytest.mark.parametrize("price", [19.99, 4.02, 1.11, 0.07, 0, 5, -19.99, 1e15])
def test_prices_are_multiples_of_a_cent(price: float) -> None:
    schema = {"type": "number", "multipleOf": 0.01}
    assert misfit(price, schema) is None
    assert misfit({"items": [{"price": price}]}, {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"price": schema, "items": {"type": "array", "items": {"$ref": "#"}}},
    }) is None  # fmt: skip


@pytest.mark.parametrize(
    "value", [19.999, 0.015, -0.001, 1e-300, float("inf"), float("-inf"), float("nan")]
)
def test_other_numbers_are_none(value: float) -> None:
    problem = misfit(value, {"multipleOf": 0.01})
    assert problem == f"$: {value!r} is not a multiple of 0.01"


@pytest.mark.parametrize("value", ["0.01", None, True, [], {}])
def test_what_is_no_number_is_not_looked_at(value: Any) -> None:
    assert misfit(value, {"multipleOf": 0.01}) is None


@pytest.mark.parametrize("step", [0, -0.01, "0.01"])
def test_steps_of_nothing_are_no_schema(step: Any) -> None:
    assert schema_problem({"multipleOf": step}) is not None


def test_huge_numbers_are_exact() -> None:
    big = 10**400
    assert misfit(big, {"multipleOf": 0.01}) is None
    assert misfit(big + 1, {"multipleOf": 10}) is not None
    assert misfit(1e300, {"multipleOf": 0.01}) is None
    assert Fraction("1e300") / Fraction("0.01") == 10**302


def test_the_draft_a_schema_names_is_the_one_applied() -> None:
    # `dependentRequired` came with 2019-09; draft 4 knows `exclusiveMinimum: true`.
    needs = {"dependentRequired": {"a": ["b"]}}
    old = {"$schema": "http://json-schema.org/draft-07/schema#", **needs}
    assert misfit({"a": 1}, needs) is not None
    assert misfit({"a": 1}, old) is None
    fourth = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "minimum": 1,
        "exclusiveMinimum": True,
    }
    assert schema_problem(fourth) is None
    assert misfit(1, fourth) is not None
    assert misfit(2, fourth) is None
