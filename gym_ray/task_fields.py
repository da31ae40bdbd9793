"""The fields of a task row that mean something here; all others pass through untouched.

Rows of Arrow have `store.columns.Column` instead. Owned here: names and meanings.
Not owned here: what is legal in them (task.py).
"""

from __future__ import annotations

from typing import NamedTuple


class Field(NamedTuple):
    """A field of a JSON object.

    Attributes:
        name: as it stands in the row; `a.b` is field `b` of the object in field `a`, and `a[].b`
            field `b` of each object in the list `a`.
        type: `string`, `number`, `int`, `bool`, `object`, `list` or `list<…>` of one of them;
            ` | ` between several, `null` among them where the value may be null.
        meaning: for docs/formats.md.
        required: whether every row has it.
    """

    name: str
    type: str
    meaning: str
    required: bool = False


_PARAMS = "responses_create_params"
_ITEM = f"{_PARAMS}.input[]"
_TEXT = "text, or a list of parts with `text`"

#: Parameters of OpenAI's Responses API that concern its server, not the rollout.
_WITHOUT_EFFECT = (
    "background", "include", "metadata", "model", "previous_response_id", "prompt",
    "prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "store", "stream",
    "stream_options", "text", "top_logprobs", "truncation", "user",
)  # fmt: skip

FIELDS = (
    Field(_PARAMS, "object", "call of OpenAI's Responses API; no other keys in it", required=True),
    Field(
        f"{_PARAMS}.input",
        "string | list<object>",
        "the prompt: a user message's text, or items",
        required=True,
    ),
    Field(
        f"{_ITEM}.type",
        "string",
        "`message` (default), `function_call`, `function_call_output`, `reasoning`",
    ),
    Field(f"{_ITEM}.role", "string", "of a message: `user`, `assistant`, `system`, `developer`"),
    Field(f"{_ITEM}.content", "string | list<object>", f"of a message: {_TEXT}"),
    Field(f"{_ITEM}.name", "string", "of a `function_call`: the tool"),
    Field(f"{_ITEM}.arguments", "string", "of a `function_call`: JSON text"),
    Field(f"{_ITEM}.call_id", "string", "of a `function_call`, and of its `function_call_output`"),
    Field(f"{_ITEM}.output", "string", "of a `function_call_output`: the result"),
    Field(f"{_ITEM}.summary", "string | list<object> | null", f"of a `reasoning` item: {_TEXT}"),
    Field(f"{_PARAMS}.instructions", "string | null", "a system message before the input"),
    Field(f"{_PARAMS}.tools", "list<object> | null", "function tools offered beside the agent's"),
    Field(f"{_PARAMS}.tools[].type", "string", "`function`"),
    Field(f"{_PARAMS}.tools[].name", "string", "what the policy calls it by", required=True),
    Field(f"{_PARAMS}.tools[].description", "string | null", "what the policy reads of it"),
    Field(f"{_PARAMS}.tools[].parameters", "object | null", "JSON schema of the arguments"),
    Field(
        f"{_PARAMS}.tool_choice",
        "string | object | null",
        '`auto` (default), `none`, `required`, or `{"type": "function", "name": …}`',
    ),
    Field(f"{_PARAMS}.parallel_tool_calls", "bool | null", "false: one call a turn"),
    Field(f"{_PARAMS}.max_tool_calls", "int | null", "calls of the whole rollout at most"),
    Field(f"{_PARAMS}.temperature", "number | null", "0 to 2; instead of the run's"),
    Field(f"{_PARAMS}.top_p", "number | null", "above 0, to 1; instead of the run's"),
    Field(f"{_PARAMS}.max_output_tokens", "int | null", "of a turn; can only lower the run's"),
    *(
        Field(f"{_PARAMS}.{name}", "any", "accepted, stored with the rollout, without effect")
        for name in _WITHOUT_EFFECT
    ),
    Field(
        "agent_ref",
        "object | string",
        "where the row belongs: its `name`, or itself, is an environment's name or stands in one's "
        "`agent_refs`. Without it, `task_source` says so, or the only environment of the config",
    ),
    Field("task_source", "any", "a string given by NeMo Gym stands for a missing `agent_ref`"),
    Field(
        "_ng_task_index",
        "int",
        "given by NeMo Gym, kept in its row shape; as every `_ng_…` no part of the task's identity",
    ),
    Field("_rowidx", "int", "given by NeMo RL: passed back; no part of the task's identity"),
    Field("…", "any", "whatever the environment's verifier needs, such as `expected_answer`"),
)

#: Keys of OpenAI's Responses API create call that a task row may carry.
CREATE_PARAMS = frozenset(
    name
    for field in FIELDS
    if (name := field.name.removeprefix(f"{_PARAMS}.")) != field.name and "[]" not in name
)
