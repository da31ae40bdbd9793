"""Checking one row of a task file: what comes of it, or why it is rejected.

Owned here: the order of the checks, and the field a reason speaks of. Not owned here: what a legal
row is (task), where it belongs (routing), what its verifier needs (environment).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from gym_ray.collection.input import InputLine
from gym_ray.errors import RolloutFailure, one_line
from gym_ray.json_schema import schema_problem
from gym_ray.prepare.row_template import RowTemplate
from gym_ray.prepare.row_text import with_field
from gym_ray.prepare.task_files import TaskFile
from gym_ray.routing import Router
from gym_ray.task import agent_name, check_row, invalid, read_row, task_id_of

#: Parameters of the Responses API that a rollout does not read, and what they must be all the same.
_PARAMETER_TYPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("background", "store", "stream"), (bool, "true or false")),
    **dict.fromkeys(
        ("model", "previous_response_id", "prompt_cache_key", "safety_identifier", "service_tier",
         "truncation", "user"),
        (str, "a string"),
    ),
    **dict.fromkeys(
        ("metadata", "prompt", "reasoning", "stream_options", "text"), (dict, "an object")
    ),
    "include": (list, "a list"),
    "top_logprobs": (int, "a whole number"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class CheckedRow:
    """A legal row, as it will be written.

    Attributes:
        task_id: of what will be written.
        environment: where it belongs.
        text: its JSON, on one line.
    """

    task_id: str
    environment: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that is no legal task, and why.

    Attributes:
        dataset: name of the task file it stands in.
        file, line: where; lines count from 1.
        field: what is wrong with it; None for the row as a whole.
        reason: what, and what to write instead; continues the sentence "row …".
    """

    dataset: str
    file: str
    line: int
    field: str | None
    reason: str


class RowChecker:
    """Checks the rows of one task file.

    Args:
        task_file: says whose rows they are.
        router: of the config, with its environments.
        template: makes task rows of its rows, if they are raw.
    """

    def __init__(self, task_file: TaskFile, router: Router, template: RowTemplate | None) -> None:
        self._file = task_file
        self._router = router
        self._template = template

    def check(self, line: InputLine) -> CheckedRow | RejectedRow:
        """What comes of a line."""
        try:
            return self._checked(line.raw)
        except RolloutFailure as failure:
            reason = failure.message
        except RecursionError:
            reason = "is JSON nested too deeply to be read"
        # A reason may quote half of a surrogate pair, which could not be written down.
        reason = reason.encode("utf-8", "backslashreplace").decode()
        return RejectedRow(
            self._file.name, line.source_file, line.source_line, field_of(reason), reason
        )

    def _checked(self, raw: bytes) -> CheckedRow:
        row, text = read_row(raw), raw.decode()
        if self._template is not None:
            for key, value in self._template.changes(row).items():
                text = with_field(text, row, key, value)
                row = {**row, key: value}
        check_row(row)
        _check_parameters(row["responses_create_params"])
        environment = self._environment_of(row)
        self._check_fields(environment, row)
        if not isinstance(row.get("agent_ref"), dict):
            name = agent_name(row) or self._file.agent or environment
            ref = {"type": "responses_api_agents", "name": name}
            text = with_field(text, row, "agent_ref", ref)
            row = {**row, "agent_ref": ref}
        return CheckedRow(task_id_of(row), environment, text)

    def _environment_of(self, row: Mapping[str, Any]) -> str:
        declared = self._file.environment
        if declared is not None and agent_name(row) is None:
            return declared
        found = self._router.find(row)
        if declared is not None and found != declared:
            raise invalid(
                f"field 'agent_ref': {agent_name(row)!r} is environment {found}'s, and the row is "
                f"declared as environment {declared}'s"
            )
        return found

    def _check_fields(self, environment: str, row: Mapping[str, Any]) -> None:
        try:
            self._router.check(environment, row)
        except RolloutFailure:
            raise
        except Exception as error:  # an author's check that did not expect such a row
            raise invalid(
                f"cannot be checked by environment {environment}: {one_line(error)}"
            ) from error


def field_of(reason: str) -> str | None:
    """The field a reason speaks of.

    Reasons name it in quotes after "field", begin with its path, or say what there is none of.

    >>> field_of("responses_create_params.input[0].role must be one of user, …")
    'responses_create_params.input[0].role'
    >>> field_of("does not fit environment M: field 'expected_answer': Field required")
    'expected_answer'
    """
    if reason.startswith("asks for agent "):
        return "agent_ref"
    match = _FIELD.search(reason)
    if match is None:
        return None
    owner, key = match["owner"], match["key"]
    if key is not None:
        return f"{owner}.{key}"
    return match["quoted"] or match["path"] or match["missing"]


_FIELD = re.compile(
    r"^(?P<owner>responses_create_params) has (?:an unknown key|no) '(?P<key>[^']+)'"
    r"|^(?P<path>(?:responses_create_params|agent_ref)[\w.\[\]]*)"
    r"|^has no '?(?P<missing>\w+)"
    r"|\bfield '(?P<quoted>[^']+)'"
)


def _check_parameters(params: Mapping[str, Any]) -> None:
    for name, value in params.items():
        kind, shown = _PARAMETER_TYPES.get(name, (object, ""))
        is_kind = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        if value is not None and not is_kind:
            raise invalid(f"responses_create_params.{name} must be {shown}, got {value!r:.60}")
    for index, tool in enumerate(params.get("tools") or ()):
        schema = tool.get("parameters")
        problem = None if schema is None else schema_problem(schema)
        if problem is not None:
            raise invalid(
                f"responses_create_params.tools[{index}].parameters is no JSON schema: {problem}"
            )
