"""A task: one problem, as a row of NeMo Gym's shape, checked once at the edge.

A row is `{"responses_create_params": {...}, "agent_ref": {...}, ...}`. Keys that are not ours
pass through untouched; names starting `_ng_` and `_rowidx` are reserved and never part of a
task's identity.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.sampling import Sampling
from gym_ray.strict_json import InvalidJson, parse_json
from gym_ray.task_fields import CREATE_PARAMS

ROLES = ("user", "assistant", "system", "developer")
ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning")

#: What `tool_choice` may say beside naming a tool.
TOOL_CHOICES = ("auto", "none", "required")


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One problem.

    Attributes:
        task_id: see `task_id_of`.
        row: the whole input row, parsed.
        task_index: position in the input of the first row with this content.
        source_file: where the row came from.
        source_line: line of the row in that file, from 1.
    """

    task_id: str
    row: Mapping[str, Any]
    task_index: int = 0
    source_file: str = ""
    source_line: int = 0

    def __getitem__(self, field: str) -> Any:
        """A field of the row: `task["expected_answer"]`."""
        return self.row[field]

    @property
    def create_params(self) -> dict[str, Any]:
        params: dict[str, Any] = self.row["responses_create_params"]
        return params

    @property
    def input_items(self) -> list[dict[str, Any]]:
        """The prompt as Responses-API items, `instructions` first as a system message."""
        items = self.create_params["input"]
        if isinstance(items, str):
            items = [{"role": "user", "content": items}]
        instructions = self.create_params.get("instructions")
        if instructions:
            return [{"role": "system", "content": instructions}, *items]
        return list(items)

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Tool definitions the row offers, Responses-API shape."""
        return list(self.create_params.get("tools") or [])

    @property
    def tool_choice(self) -> str:
        """`auto`, `none`, `required`, or the name of the one tool to call."""
        choice = self.create_params.get("tool_choice") or "auto"
        return choice if isinstance(choice, str) else str(_named_tool(choice))

    @property
    def parallel_tool_calls(self) -> bool:
        """Whether one turn may call several tools."""
        return self.create_params.get("parallel_tool_calls") is not False

    @property
    def max_tool_calls(self) -> int | None:
        """Calls of the whole rollout at most; None for no limit."""
        limit: int | None = self.create_params.get("max_tool_calls")
        return limit


def parse_task(text: str | bytes, *, task_index: int, source_file: str, source_line: int) -> Task:
    """Parse and check one input line.

    Raises:
        RolloutFailure: `task_invalid`; the message names the field and what to write instead.
    """
    row = read_row(text)
    check_row(row)
    try:
        task_id = task_id_of(row)
    except RecursionError:  # writing JSON takes a little more stack than reading it
        raise invalid("is JSON nested too deeply to be read") from None
    return Task(
        task_id=task_id,
        row=row,
        task_index=task_index,
        source_file=source_file,
        source_line=source_line,
    )


def read_row(text: str | bytes) -> Any:
    """The value of an input line, which must be strictly JSON; see `gym_ray.strict_json`.

    Raises:
        RolloutFailure: `task_invalid`; the message names the field where one is there twice.
    """
    try:
        return parse_json(text)
    except InvalidJson as error:
        wrong = str(error)
        hint = "; write one JSON object per line" if wrong.startswith("is not JSON") else ""
        raise invalid(wrong + hint) from None


def check_row(row: Any) -> None:
    """Check that a parsed row is a legal task.

    Raises:
        RolloutFailure: `task_invalid`.
    """
    if not isinstance(row, dict):
        raise invalid(f"is a JSON {_json_type(row)}; a task row must be an object")
    if "responses_create_params" not in row:
        nearest = difflib.get_close_matches("responses_create_params", row, n=1, cutoff=0.6)
        hint = f" (did you mean it by {nearest[0]!r}?)" if nearest else ""
        raise invalid(
            f"has no 'responses_create_params'{hint}; write "
            '{"responses_create_params": {"input": [{"role": "user", "content": "…"}]}, …}'
        )
    _check_create_params(row["responses_create_params"])
    agent_name(row)


def agent_name(row: Mapping[str, Any]) -> str | None:
    """The agent a row asks for: `agent_ref.name`, or `agent_ref` itself when a string.

    Raises:
        RolloutFailure: `task_invalid` when `agent_ref` has another shape.
    """
    ref = row.get("agent_ref")
    if ref is None or isinstance(ref, str):
        return ref
    if isinstance(ref, dict) and isinstance(ref.get("name"), str):
        return str(ref["name"])
    raise invalid(
        f"agent_ref must be a string or an object with a string 'name', got {_shown(ref)}"
    )


def task_id_of(row: Mapping[str, Any]) -> str:
    """SHA-256 of the row's canonical JSON, reserved keys left out: same content, same task.

    Raises:
        RolloutFailure: `task_invalid` when a string of the row is not encodable text.
    """
    own = {key: value for key, value in row.items() if not is_reserved(key)}
    text = json.dumps(own, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError:
        raise invalid(
            "holds half of a surrogate pair (such as \\ud800), which is not text; "
            "write the whole character"
        ) from None


def unparsable_task_id(source_file: str, source_line: int, raw: bytes) -> str:
    """Identity of a line that is not a legal task: file, line number and raw bytes."""
    digest = hashlib.sha256(f"{source_file}\0{source_line}\0".encode())
    digest.update(raw)
    return digest.hexdigest()


def rollout_id_of(task_id: str, environment: str, rollout_index: int) -> str:
    """Identity of one rollout in a run: 32 hexadecimal characters."""
    return hashlib.sha256(f"{task_id}/{environment}/{rollout_index}".encode()).hexdigest()[:32]


def is_reserved(key: str) -> bool:
    """Keys other systems add to a row for their own bookkeeping."""
    return key.startswith("_ng_") or key == "_rowidx"


def invalid(reason: str) -> RolloutFailure:
    """A `task_invalid` failure; the reason continues the sentence "row …"."""
    return RolloutFailure(FailureKind.TASK_INVALID, reason)


def _check_create_params(params: Any) -> None:
    if not isinstance(params, dict):
        raise invalid(
            f"responses_create_params must be an object with an 'input', got {_shown(params)}"
        )
    for key in params:
        if key not in CREATE_PARAMS:
            nearest = difflib.get_close_matches(key, CREATE_PARAMS, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise invalid(f"responses_create_params has an unknown key {key!r}{hint}")
    if params.get("input") is None:
        raise invalid(
            "responses_create_params has no 'input'; write a string or a list of messages"
        )
    _check_input(params["input"])
    instructions = params.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise invalid(
            f"responses_create_params.instructions must be a string, got {_shown(instructions)}"
        )
    _check_tools(params.get("tools"))
    _check_tool_use(params)
    Sampling().for_task(params)  # Its ranges, checked before any token is spent.


def _check_input(items: Any) -> None:
    where = "responses_create_params.input"
    if isinstance(items, str):
        if not items:
            raise invalid(f"{where} is empty; write a string or a list of messages")
        return
    if not isinstance(items, list):
        raise invalid(f"{where} must be a string or a list of messages, got {_shown(items)}")
    if not items:
        raise invalid(f"{where} is empty; write a string or a list of messages")
    for index, item in enumerate(items):
        _check_item(f"{where}[{index}]", item)


def _check_item(where: str, item: Any) -> None:
    if not isinstance(item, dict):
        raise invalid(f"{where} must be an object with 'role' and 'content', got {_shown(item)}")
    kind = item.get("type", "message")
    if kind not in ITEM_TYPES:
        raise invalid(f"{where}.type must be one of {', '.join(ITEM_TYPES)}, got {_shown(kind)}")
    required = {
        "function_call": ("name", "arguments", "call_id"),
        "function_call_output": ("call_id", "output"),
    }
    for field in required.get(kind, ()):
        if not isinstance(item.get(field), str):
            raise invalid(f"{where}.{field} must be a string, got {_shown(item.get(field))}")
    if kind == "reasoning":
        for field in ("summary", "content"):
            if item.get(field) is not None:
                _check_content(f"{where}.{field}", item[field])
    if kind != "message":
        return
    if item.get("role") not in ROLES:
        raise invalid(
            f"{where}.role must be one of {', '.join(ROLES)}, got {_shown(item.get('role'))}"
        )
    _check_content(f"{where}.content", item.get("content"))


def _check_content(where: str, content: Any) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise invalid(f"{where} must be a string or a list of parts, got {_shown(content)}")
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise invalid(
                f'{where}[{index}] must be a text part {{"type": "input_text", "text": "…"}}, '
                f"got {_shown(part)}"
            )


def _check_tools(tools: Any) -> None:
    where = "responses_create_params.tools"
    if tools is None:
        return
    if not isinstance(tools, list):
        raise invalid(f"{where} must be a list of function tools, got {_shown(tools)}")
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise invalid(
                f'{where}[{index}] must be {{"type": "function", "name": "…", "parameters": '
                f"{{…}}}}, got {_shown(tool)}"
            )
        if tool.get("type", "function") != "function":
            raise invalid(f"{where}[{index}].type must be 'function', got {_shown(tool['type'])}")


def _check_tool_use(params: Mapping[str, Any]) -> None:
    where = "responses_create_params"
    choice = params.get("tool_choice")
    if choice is not None and choice not in TOOL_CHOICES and _named_tool(choice) is None:
        raise invalid(
            f"{where}.tool_choice must be one of {', '.join(TOOL_CHOICES)}, or "
            f'{{"type": "function", "name": "…"}} for one tool, got {_shown(choice)}'
        )
    parallel = params.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        raise invalid(f"{where}.parallel_tool_calls must be true or false, got {_shown(parallel)}")
    limit = params.get("max_tool_calls")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise invalid(
            f"{where}.max_tool_calls must be a whole number from 1, got {_shown(limit)}; "
            'to offer no tools, set tool_choice to "none"'
        )


def _named_tool(choice: Any) -> str | None:
    """Tool a choice names, in the shape of the Responses API or of chat completions."""
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return None
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, dict) else None
    # A tool called "none" cannot be told from the choice of that name.
    return name if isinstance(name, str) and name and name not in TOOL_CHOICES else None


def _shown(value: Any, limit: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    # Half of a surrogate pair is legal JSON but no text, and could not be stored.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else text[:limit] + "…"


def _json_type(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
