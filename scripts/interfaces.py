"""Reference pages of what others call: failure kinds, command line, Python and HTTP.

Made from code and written by `scripts/write_docs.py`. Owned here: the order and the sentences
around what the code says of itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

import griffe
import typer

import gym_ray
from gym_ray.cli.main import app
from gym_ray.config.policy import SamplingConfig
from gym_ray.errors import RETRYABLE, FailureKind, RolloutFailure
from gym_ray.gateway.app import GatewaySettings, create_app
from gym_ray.gateway.batches import batch_routes
from gym_ray.gateway.environments import environment_routes
from gym_ray.gateway.run import run_router, status_of
from gym_ray.gateway.sessions import session_routes
from gym_ray.gateway.weights import weights_router

FAILURES_HEAD = """# Failure kinds

Made from `gym_ray/errors.py` by `scripts/write_docs.py`.

A rollout that fails is a row with `status` `failed`, an `error_kind` from this table, a one-line
`error` and no reward. A failure is never a reward of 0.

Kinds marked "yes" are transport and provider failures. Such an attempt is made again, with a fresh
environment, up to `collect.max_attempts`, and once more when the command is issued again
([retries](retries.md)). The others would fail the same way again. The last column is the status of
[`POST /run`](run.md).

| kind | tried again | meaning | HTTP |
|---|---|---|---|
"""

COMMANDS_HEAD = """# Command line

Made from the commands' own help by `scripts/write_docs.py`: what `gym-ray COMMAND --help` prints.
`gym-ray --install-completion` has the shell complete them.

| exit code | meaning |
|---|---|
| 0 | The command did what it says. |
| 1 | An error; the message on standard error says what to do. |
| 2 | Wrong usage or configuration; nothing was started. |
| 3 | More rollouts failed than `collect.max_failed_share` allows; all rows are kept. |
| 130 | Interrupted; the same command continues. |
"""

PYTHON_HEAD = """# Python API

Everything below is imported from `gym_ray`. Importing it is quick, and loads neither Ray nor an
engine. Names that are not here may change without notice.
"""

#: Public names by what a reader wants to do.
PYTHON = {
    "Collect and read": (
        "collect",
        "RunSummary",
        "read_rollouts",
        "Rollouts",
        "Rollout",
        "reverify",
    ),
    "Write an environment": (
        "Environment",
        "GymnasiumEnvironment",
        "Task",
        "TaskFields",
        "Outcome",
        "Step",
        "GoldStep",
        "Verdict",
        "tool",
        "UnknownTool",
        "Judge",
        "ask_for",
    ),
    "Ask a running service": (
        "RolloutClient",
        "AsyncRolloutClient",
        "RolloutResult",
        "RolloutGroup",
    ),
    "Errors": ("GymRayError", "ConfigError", "RolloutFailure", "FailureKind"),
}

HTTP_HEAD = """# HTTP API

Made from the gateway's OpenAPI document by `scripts/write_docs.py`; a running gateway has the same
at `GET /openapi.json`. What the routes do, and examples, are on the pages
[Gateway](gateway.md), [Whole rollouts](run.md), [Sessions](sessions.md), [Python client](client.md)
and [Live weights](weights.md).

Every route but `/health` and `/openapi.json` wants `Authorization: Bearer KEY` where a key is
configured. Routes below `/sessions/{session_id}` want that session's key, and `/weights` the admin
key. An error is always `{"error": {"message", "type", "param", "code"}}`; a body that does not fit
its schema is answered with 400. Until the service has started, every route is answered with 503,
`Retry-After` and the code `starting`.

The routes of `/v1` exist once more below `/sessions/{session_id}`, with the same bodies.
"""

#: OpenAI's routes as a session has them.
_SESSION_CALLS = "/sessions/{session_id}/v1/"


def failures() -> str:
    """The page `docs/failures.md`."""
    members = griffe.load("gym_ray.errors")["FailureKind"].members
    rows = [
        f"| `{kind}` | {'yes' if kind in RETRYABLE else 'no'} "
        f"| {_one_line(members[kind.name].docstring.value)} "
        f"| {status_of(RolloutFailure(kind, ''))} |"
        for kind in FailureKind
    ]
    return FAILURES_HEAD + "\n".join(rows) + "\n"


def commands() -> str:
    """The page `docs/commands.md`."""
    parts = [
        f"## {name}\n\n```text\n{help}\n```\n"
        for name, help in _help(typer.main.get_command(app), "gym-ray", None)
    ]
    return "\n".join([COMMANDS_HEAD, *parts])


def _help(command: Any, name: str, above: Any) -> Iterator[tuple[str, str]]:
    """Name and help of a command and of those below it that are listed."""
    context = command.context_class(
        command, info_name=name, parent=above, terminal_width=80, max_content_width=80
    )
    yield context.command_path, command.get_help(context).strip()
    for inner in getattr(command, "commands", {}).values():
        if not inner.hidden:
            yield from _help(inner, inner.name, context)


def python() -> str:
    """The page `docs/python.md`."""
    shown = {name for names in PYTHON.values() for name in names}
    if shown != set(gym_ray.__all__):
        raise ValueError(f"not on the page, or not public: {shown ^ set(gym_ray.__all__)}")
    parts = [
        "\n".join([f"## {title}\n", *(f"::: gym_ray.{name}\n" for name in names)])
        for title, names in PYTHON.items()
    ]
    return "\n".join([PYTHON_HEAD, *parts])


def http() -> str:
    """The page `docs/http.md`."""
    document = _openapi()
    schemas = document["components"]["schemas"]
    bodies: dict[str, Mapping[str, Any]] = {}
    parts = [HTTP_HEAD]
    for path, operations in document["paths"].items():
        if path.startswith(_SESSION_CALLS):
            continue
        for method, operation in operations.items():
            parts += [f"## {method.upper()} {path}\n", *_operation(operation)]
            bodies |= _reached(_body(operation), schemas)
    parts.append("## Schemas\n")
    for name, schema in sorted(bodies.items()):
        meaning = _one_line(schema.get("description", ""))
        parts += [f"### {name}\n", f"{meaning}\n" * bool(meaning), _fields(schema)]
    return "\n".join(parts)


def _openapi() -> dict[str, Any]:
    """The document of a gateway with all of its routes; nothing behind them is ever called."""
    nothing = cast(Any, None)
    gateway = create_app(
        policy=nothing,
        settings=GatewaySettings(),
        routers=[
            run_router(nothing, nothing),
            environment_routes({}, SamplingConfig()),
            batch_routes(nothing, nothing),
            session_routes(nothing, nothing, nothing),
            weights_router(nothing),
        ],
    )
    return gateway.openapi()


def _operation(operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"{operation['summary']}. {_one_line(operation.get('description', ''))}".strip() + "\n"
    if parameters := operation.get("parameters"):
        yield "| parameter | in | type | default |\n|---|---|---|---|"
        for one in parameters:
            yield (
                f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} "
                f"| {_default(one['schema'], one['required'])} |"
            )
        yield ""
    body = _body(operation)
    if "$ref" in body:
        yield f"Body: {_type(body)}\n"
    elif body:
        yield f"Body:\n\n{_fields(body)}"
    told = [
        f"| {status} | {_one_line(answer['description'])} |"
        for status, answer in operation["responses"].items()
        # FastAPI's own, which the gateway never gives: see the head.
        if answer["description"] not in ("Successful Response", "Validation Error")
    ]
    if told:
        yield "\n".join(["| status | when |", "|---|---|", *told, ""])


def _body(operation: Mapping[str, Any]) -> Mapping[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    return cast(Mapping[str, Any], content.get("application/json", {}).get("schema", {}))


def _reached(schema: Any, schemas: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The named schemas that one mentions, and those they mention."""
    if isinstance(schema, list):
        schema = dict(enumerate(schema))
    if not isinstance(schema, dict):
        return {}
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {name: schemas[name], **_reached(schemas[name], schemas)}
    return {
        name: found for part in schema.values() for name, found in _reached(part, schemas).items()
    }


def _fields(schema: Mapping[str, Any]) -> str:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in schema.get("properties", {}).items():
        meaning = _one_line(field.get("description", ""))
        default = _default(field, name in schema.get("required", ()))
        rows.append(f"| `{name}` | {_type(field)} | {default} | {meaning} |")
    return "\n".join([*rows, ""])


def _default(schema: Mapping[str, Any], required: bool) -> str:
    if required:
        return "(required)"
    value = schema.get("default")
    return "" if value is None else f"`{json.dumps(value)}`"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in words; named ones are links into the page."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"] if part != {"type": "null"})
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = schema.get("type", "any")
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum")
    return kind + (f", {low:g} to {high:g}" if low is not None and high and high < 1e6 else "")


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
