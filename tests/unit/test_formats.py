"""docs/formats.md is what is in the files: of every row that is written, keys and types are those
that the page tells.
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gym_ray.export.dpo import DpoRecipe
from gym_ray.export.export import export
from gym_ray.export.recipe import Recipe
from gym_ray.export.rl import RlRecipe
from gym_ray.export.sft import SftRecipe
from gym_ray.prepare.prepared_rows import PreparedRowWriter
from gym_ray.rollout import Rollout
from gym_ray.store.columns import type_name
from gym_ray.store.places import write_table_whole
from gym_ray.store.rows import specs_to_table
from gym_ray.task import check_row
from tests.exports import Make, Row, failed, lines, run_command, said, store, told, with_a_call

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "formats.md").read_text()
JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "int": (int,),
    "number": (int, float),
    "bool": (bool,),
    "object": (dict,),
    "null": (type(None),),
    "any": (object,),
}


def documented(section: str) -> dict[str, str]:
    """Type by name, of a section of the page; ` required` is part of a field's type."""
    text = re.split(r"^## ", PAGE, flags=re.M)
    (found,) = (part for part in text if part.startswith(f"{section}\n"))
    types: dict[str, str] = {}
    for names, kind in re.findall(r"^\| (`.*?`) \| (`.*?`(?:, required)?) \|", found, re.M):
        first, *others = re.findall(r"`([^`]+)`", names)
        stem = first.rpartition(".")[0]
        for name in (first, *(f"{stem}.{other}" for other in others)):
            types[name] = kind.replace("`", "").replace("\\|", "|")
    return types


def columns_of(path: Path) -> dict[str, str]:
    """Type by name, of a Parquet file, as the page tells them."""

    def of(name: str, kind: pa.DataType) -> Iterator[tuple[str, str]]:
        inner = kind.value_type if pa.types.is_list(kind) else kind
        is_message = pa.types.is_struct(inner) and "tool_call_id" in [f.name for f in inner]
        yield name, "list<message>" if is_message else type_name(kind)
        if pa.types.is_struct(inner) and not is_message:
            for field in inner:
                yield from of(f"{name}{'[]' * (inner is not kind)}.{field.name}", field.type)

    return {
        name: kind for field in pq.read_schema(path) for name, kind in of(field.name, field.type)
    }


def wrong_fields(row: Row, types: dict[str, str]) -> list[str]:
    """What of a JSON row is not as documented: missing, of another type, or not on the page."""
    problems = []
    for name, value in _values(row):
        if name not in types:
            problems.append(f"{name} is not documented")
        elif not _is_of(value, types[name].removesuffix(", required")):
            problems.append(f"{name} is {value!r}")
    there = {name for name, _ in _values(row)}
    required = {name for name, kind in types.items() if kind.endswith(", required")}
    return problems + [f"{name} is missing" for name in sorted(required - there)]


def _values(row: Row) -> Iterator[tuple[str, Any]]:
    """The fields of a row, and those of its response, by dotted name."""
    for name, value in row.items():
        yield name, value
        if name == "response":
            yield from ((f"response.{key}", inner) for key, inner in value.items())


def _is_of(value: Any, kind: str) -> bool:
    for one in kind.split(" | "):
        if one.startswith("list<"):
            if isinstance(value, list) and all(_is_of(item, one[5:-1]) for item in value):
                return True
        elif isinstance(value, JSON_TYPES[one]):
            return one == "bool" or not isinstance(value, bool) or one == "any"
    return False


@pytest.fixture
def rollouts(make_rollout: Make) -> list[Rollout]:
    """With and without tools, components, process rewards, retries and failures."""
    rich = {
        "reward_components": {"right": 0.75, "short": 0.25},
        "metrics": {"speed": 2.0},
        "turn_rewards": (1.0,),
        "attempts": 2,
    }
    texts = [make_rollout(0, n, **said(f"It is {n}."), reward=float(n)) for n in range(2)]
    turns = make_rollout().turns * 2
    calls = [
        make_rollout(1, n, **with_a_call(), turns=turns, reward=r) for n, r in enumerate((0, 1))
    ]
    return [
        *texts,
        *calls,
        make_rollout(2, 0, **said("3"), **rich),
        failed(make_rollout, 3, 0),
        make_rollout(3, 1, status="truncated", truncation_reason="length", **told("?")),
    ]


def test_the_page_is_what_the_code_says() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))["formats"]()
    assert page == PAGE, "run scripts/write_docs.py"


def test_shards_and_segments_have_the_columns_of_the_page(
    rollouts: list[Rollout], tmp_path: Path
) -> None:
    segments = store(tmp_path / "a", rollouts, compacted=False)
    shards = store(tmp_path / "b", rollouts)

    files = [*segments.rglob("*.parquet"), *(shards / "rollouts").rglob("*.parquet")]
    assert len(files) == 2
    for file in files:
        assert columns_of(file) == documented("Rollout row")


def test_manifests_and_prepared_rows_have_the_columns_of_the_page(
    rollouts: list[Rollout], tmp_path: Path
) -> None:
    write_table_whole(tmp_path / "manifest.parquet", specs_to_table([r.spec for r in rollouts]))
    PreparedRowWriter(tmp_path / "train.parquet").__exit__(None, None, None)

    assert columns_of(tmp_path / "manifest.parquet") == documented("Manifest row")
    assert columns_of(tmp_path / "train.parquet") == documented("Prepared task row, Parquet")


def message_types(messages: list[Row]) -> dict[str, str]:
    """What the messages of a JSONL row hold, as the page tells it."""
    found: dict[str, str] = {}
    for message in messages:
        for name, value in message.items():
            found[name] = "list<struct>" if name == "tool_calls" else "string"
            for call in value if name == "tool_calls" else ():
                found |= {f"tool_calls[].{key}": "string" for key in call}
                found["tool_calls[].function"] = "struct"
                function = {f"tool_calls[].function.{key}": "string" for key in call["function"]}
                assert isinstance(call["function"]["arguments"], dict)
                found |= function
    return found


EXPORTS: dict[str, tuple[str, Recipe]] = {
    "RL row": ("rl", RlRecipe(failed_groups="keep-completed")),
    "SFT row": ("sft", SftRecipe()),
    "DPO row, messages": ("dpo", DpoRecipe()),
    "DPO row, NeMo RL": ("dpo", DpoRecipe(shape="nemo-rl")),
    "DPO row, text": ("dpo", DpoRecipe(shape="text")),
}


@pytest.mark.parametrize("section", EXPORTS)
def test_exports_have_the_columns_of_the_page(
    rollouts: list[Rollout], tmp_path: Path, section: str
) -> None:
    kind, recipe = EXPORTS[section]
    run = store(tmp_path / "run", rollouts)

    export(run, tmp_path / "out", kind, recipe, quiet=True)  # type: ignore[arg-type]

    types = documented(section)
    assert columns_of(tmp_path / "out" / "train-00000.parquet") == types
    rows = lines(tmp_path / "out" / "train.jsonl")
    stored = pq.read_table(tmp_path / "out" / "train-00000.parquet").to_pylist()
    assert len(rows) == len(stored) > 0
    for row, other in zip(rows, stored, strict=True):
        assert as_stored(row, other) == other
        assert row.keys() <= {name for name in types if "." not in name}


def as_stored(row: Row, stored: Row) -> Row:
    """A row of the JSONL as it would be in Parquet, by what the page says of the difference."""
    if "branch" in row:  # RL
        parts = row["reward_components"].items()
        return {**row, "reward_components": [{"name": n, "value": v} for n, v in parts]}
    tools = {"tools": json.dumps(row["tools"]) if "tools" in row else None}
    told = {name: _messages(value) for name, value in row.items()}
    return {**told, **(tools if "tools" in stored else {})}


def _messages(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if value and "completion" in value[0]:
        return [{**ranked, "completion": _messages(ranked["completion"])} for ranked in value]
    names = [name for name in documented("Message") if "." not in name]
    messages = [{name: message.get(name) for name in names} for message in value]
    for message in messages:
        for call in message["tool_calls"] or ():
            arguments = json.dumps(call["function"]["arguments"])
            call["function"] = {**call["function"], "arguments": arguments}
    return messages


def test_messages_hold_what_the_page_says(rollouts: list[Rollout], tmp_path: Path) -> None:
    run = store(tmp_path / "run", rollouts)
    export(run, tmp_path / "out", "sft", SftRecipe(), quiet=True)

    found: dict[str, str] = {}
    for row in lines(tmp_path / "out" / "train.jsonl"):
        found |= message_types(row["messages"])
    assert found == documented("Message")
    stored = pq.read_schema(tmp_path / "out" / "train-00000.parquet").field("messages").type
    names = [name for name in documented("Message") if "." not in name]
    assert [field.name for field in stored.value_type] == names


def test_nemo_gym_rows_have_the_fields_of_the_page(rollouts: list[Rollout], tmp_path: Path) -> None:
    run = store(tmp_path / "run", rollouts)

    assert run_command("export", "nemo-gym", run, "--output", tmp_path / "out")[0] == 0

    types = documented("NeMo Gym row")
    good = lines(tmp_path / "out" / "rollouts.jsonl")
    bad = lines(tmp_path / "out" / "rollouts_failures.jsonl")
    for row in [*good, *bad]:
        row.pop("speed", None)  # a metric, which the page tells of as "…"
        assert wrong_fields(row, types) == []
    written = {name for row in [*good, *bad] for name, _ in _values(row)}
    told_of = {name for name in types if "[]" not in name and name != "…"}
    assert written == told_of
    items = [item for row in good for item in row["response"]["output"]]
    carried = {name for item in items for name in item if name.endswith(("_ids", "_probs"))}
    assert carried == {name.rpartition(".")[2] for name in types if "[]" in name}


def test_a_task_row_with_every_field_of_the_page_is_legal() -> None:
    """Every documented field is accepted with a value of its type, and no other parameter is."""
    examples: dict[str, Any] = {
        "instructions": "Add.", "tools": [{"type": "function", "name": "add", "parameters": {}}],
        "tool_choice": "auto", "parallel_tool_calls": True, "max_tool_calls": 3,
        "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 7,
        "input": [
            {"role": "user", "content": "1 + 2"},
            {"type": "function_call", "name": "add", "arguments": "{}", "call_id": "c"},
            {"type": "function_call_output", "call_id": "c", "output": "3"},
            {"type": "reasoning", "summary": []},
        ],
    }  # fmt: skip
    stem = "responses_create_params."
    types = documented("Task row")
    names = [name.removeprefix(stem) for name in types if name.startswith(stem)]
    params = {name: examples.get(name) for name in names if "[]" not in name}
    assert examples.keys() <= params.keys()

    for name, value in examples.items():
        kind = types[f"{stem}{name}"].removesuffix(", required")
        assert _is_of(value, kind), name
    for ref in ("sums", {"name": "sums"}):
        check_row({"responses_create_params": params, "agent_ref": ref, "_rowidx": 1})
    for name in ("responses_create_params", f"{stem}input"):
        assert types[name].endswith(", required")
