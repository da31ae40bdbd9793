"""What text between tags stands for, by the tool's schema."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray.renderers.argument_values import argument_value, decode_json, is_finite

KIND = {"enum": ["left", "5", "null"]}
STRINGS: list[Any] = [
    {"type": "string"},
    {"type": ["string"]},
    {"type": "string", "minLength": 99},
    {"$ref": "#/$defs/Text"},
    {"$ref": "#/$defs/Loop/allOf/0"},
    {"allOf": [{"description": "x"}, {"type": "string"}]},
    {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Text"}]},
    {"allOf": [{"type": ["string", "integer"]}, {"type": ["string", "null"]}]},
]
EITHER: list[Any] = [
    {},
    True,
    {"description": "anything"},
    {"type": ["string", "integer", "null"]},
    {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
    {"oneOf": [{"$ref": "#/$defs/Text"}, {"type": ["number", "null"]}]},
    {"$ref": "#/$defs/Nowhere"},
    {"$ref": "https://example.com/schema"},
    {"$ref": "#/$defs/Loop"},
    {"type": "text"},
]


def value(text: str, schema: Any) -> Any:
    definitions = {
        "Text": {"type": "string"},
        "Loop": {"allOf": [{"type": "string"}], "anyOf": [{"$ref": "#/$defs/Loop"}]},
    }
    if schema == {"$ref": "#/$defs/Loop"}:
        definitions["Loop"] = {"anyOf": [{"$ref": "#/$defs/Loop"}, {}]}
    return argument_value("a", text, {"properties": {"a": schema}, "$defs": definitions})


@pytest.mark.parametrize("schema", STRINGS)
@given(text=st.text() | st.sampled_from(["5", "null", '"quoted"', "    return x\n", "{}", "True"]))
def test_where_only_text_is_allowed_it_is_the_text(schema: Any, text: str) -> None:
    assert value(text, schema) == text


@pytest.mark.parametrize("schema", EITHER)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5),
        ("null", None),
        ("  left\n", "  left\n"),
        ('"quoted"', '"quoted"'),
        ("NaN", "NaN"),
        ("1e999", "1e999"),
        ("True", "True"),
        ("{oops", "{oops"),
        ("", ""),
    ],
)
def test_where_text_and_more_is_allowed_json_of_the_rest_is_that(
    schema: Any, text: str, expected: Any
) -> None:
    assert value(text, schema) == expected


@pytest.mark.parametrize(
    ("text", "schema", "expected"),
    [
        ("5", KIND, "5"),
        ("null", {"enum": ["null", None]}, None),
        ("5", {"enum": ["5", 6]}, "5"),
        ("6", {"enum": ["5", 6]}, 6),
        ("5", {"const": "5"}, "5"),
        ("5", {"type": ["string", "null"]}, "5"),
        ("5", {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 10}]}, "5"),
        ("5", {"anyOf": [{"type": "string", "minLength": 2}, {"type": "integer"}]}, 5),
        ('["x"]', {"anyOf": [{"type": "string"}, {"items": {"type": "integer"}}]}, '["x"]'),
        ("[1]", {"anyOf": [{"type": "string"}, {"items": {"type": "integer"}}]}, [1]),
        ('{"b": 1}', {"type": ["string", "object"], "required": ["c"]}, '{"b": 1}'),
        ('{"b": 1}', {"type": ["string", "object"], "additionalProperties": False}, '{"b": 1}'),
        (
            '{"b": 1}',
            {"type": ["string", "object"], "properties": {"b": {"type": "integer"}}},
            {"b": 1},
        ),
        ("true", {"enum": [1, "true"]}, "true"),
        ('{"b": 1}', {"type": "object"}, {"b": 1}),
        ('{"b": 1}', {"anyOf": [{"type": "string"}, {"type": "array"}]}, '{"b": 1}'),
        (" 5 ", {"type": "integer"}, 5),
        ("5.0", {"type": "integer"}, 5.0),
        ("5", {"type": "number"}, 5),
        ("True", {"type": "boolean"}, True),
        ("None", {"type": ["integer", "null"]}, None),
        ('"5"', {"type": "integer"}, "5"),
    ],
)
def test_the_whole_schema_says_what_a_text_stands_for(
    text: str, schema: Any, expected: Any
) -> None:
    found = value(text, schema)

    assert (found, type(found)) == (expected, type(expected))


#: Each of a hundred schemas is four times the next one, so there are 4**100 ways through them.
DOUBLING = {
    f"D{level}": {"anyOf": [{"$ref": f"#/$defs/D{level + 1}"}] * 4} for level in range(100)
} | {"D100": {"type": "string"}}


@pytest.mark.parametrize(
    ("text", "parameters", "expected"),
    [
        ("x", {"properties": {"a": {"$ref": "#/$defs/D0"}}, "$defs": DOUBLING}, "x"),
        ("[1]", {"properties": {"a": {"$ref": "#/$defs/D0"}}, "$defs": DOUBLING}, [1]),
        ("x", {"$ref": "#/$defs/D0", "$defs": DOUBLING}, "x"),
        ("x", {"anyOf": [{"$ref": "#"}] * 40}, "x"),
        ("5", {"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}] * 40}}}, 5),
        (
            "5",
            {"properties": {"a": {"anyOf": [{"type": "string"}, {"$ref": "#/properties/a"}]}}},
            "5",
        ),
        ("5", {"properties": {"a": {"$ref": "#/anyOf/" + "1" * 5000}}, "anyOf": [{}]}, 5),
        (
            json.dumps(["a" * 40 + "!"]),
            {"properties": {"a": {"type": ["string", "array"], "items": {"pattern": "^(a+)+$"}}}},
            ["a" * 40 + "!"],
        ),
        (
            json.dumps([[[[[1] * 9] * 9] * 9] * 9]),
            {
                "properties": {"a": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Tree"}]}},
                "$defs": {"Tree": {"items": {"anyOf": [{"$ref": "#/$defs/Tree"}] * 40}}},
            },
            [[[[[1] * 9] * 9] * 9] * 9],
        ),
    ],
)
def test_no_schema_makes_reading_a_value_long(
    text: str, parameters: dict[str, Any], expected: Any
) -> None:
    assert argument_value("a", text, parameters) == expected


@pytest.mark.parametrize("text", ["left", "NaN", "-Infinity", "1e999", "9" * 5000, "[" * 10**5])
def test_what_is_neither_json_nor_may_be_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="'a' is neither JSON nor"):
        value(text, {"type": "integer"})


@pytest.mark.parametrize(
    "parameters",
    [
        {"allOf": [{"properties": {"b": {}}}, {"properties": {"a": {"type": "string"}}}]},
        {"$ref": "#/$defs/All", "$defs": {"All": {"properties": {"a": {"type": "string"}}}}},
        {"anyOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {}}}]},
        {"properties": {"b": {}}, "additionalProperties": {"type": "string"}},
    ],
)
def test_a_property_is_found_wherever_the_schema_has_it(parameters: dict) -> None:
    assert argument_value("a", "5", parameters) == "5"


def test_an_argument_the_tool_does_not_know_is_read_as_json_or_text() -> None:
    assert [argument_value("a", text, {}) for text in ("5", "left")] == [5, "left"]


@given(st.recursive(st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip  # noqa: E501
def test_what_json_can_carry_is_finite(item: Any) -> None:
    try:
        json.dumps(item, allow_nan=False)
    except ValueError:
        assert not is_finite(item)
    else:
        assert is_finite(item)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -1e999}', "1" * 5000])
def test_numbers_that_json_or_a_float_has_not_are_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not JSON|too large|Exceeds the limit"):
        decode_json(text)
