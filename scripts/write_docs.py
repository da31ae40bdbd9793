"""Writes the reference pages that are made from code: run it after changing a config key or a
column. A unit test compares the pages with what this prints.

    python scripts/write_docs.py
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

from gym_ray.config import RunConfig
from gym_ray.sections import (
    DatasetConfig,
    EnvironmentConfig,
    GroupVerifierConfig,
    JudgeConfig,
    McpServerConfig,
    Section,
)

DOCS = Path(__file__).parent.parent / "docs"

CONFIGURATION_HEAD = """# Configuration

Made from `gym_ray/sections.py` by `scripts/write_docs.py`. Any key can be overridden on the command
line as `section.key=value`. Tasks may set `temperature`, `top_p` and (lower) `max_output_tokens`
in their `responses_create_params`.

A resumed run may change `policy.resources`, `policy.autoscaling`, `policy.startup_timeout_seconds`,
`policy.request_timeout_seconds`, the same keys of judges and their limits,
`verification.processes`, an environment's `resources`, `autoscaling` and `datasets`, and of
`collect`: `objective`, `extend`, `max_in_flight`, `max_attempts`, `max_failed_share`, `report`,
`report_seconds` and the timeouts; and `observability`. Any other change is refused, with the
differing keys shown.

Values may come from environment variables (`${oc.env:NAME}`); `run.yaml` keeps the reference, not
the value.
"""


def configuration() -> str:
    """The page `docs/configuration.md`."""
    parts = [CONFIGURATION_HEAD]
    for name, field in RunConfig.model_fields.items():
        if name in ("base_directory", "from_environment", "from_objective"):
            continue
        if name == "judges":
            parts.append(_table("judges.NAME", JudgeConfig))
        elif name == "environments":
            parts.append(_table("environments.NAME", EnvironmentConfig))
            parts.append(_table("environments.NAME.datasets[]", DatasetConfig))
            parts.append(_table("environments.NAME.mcp_servers.NAME", McpServerConfig))
            parts.append(_table("environments.NAME.group_verifiers.NAME", GroupVerifierConfig))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            parts.append(_table(name, field.annotation))
    return "\n".join(parts)


def _table(name: str, section: type[Section]) -> str:
    lines = [
        f"## {name}",
        "",
        section.__doc__ or "",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    lines += _rows("", section)
    return "\n".join([*lines, ""])


def _rows(prefix: str, section: type[Section]) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            rows += _rows(f"{prefix}{name}.", kind)
            continue
        default = field.get_default(call_default_factory=True)
        shown = "null" if default is None else str(default)
        if field.is_required():
            shown = "(required)"
        choices = _choices(kind)
        meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | `{shown}` | {meaning}{choices} |")
    return rows


def _choices(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return ""
    if typing.get_origin(kind) is typing.Literal:
        return " One of " + ", ".join(f"`{value}`" for value in typing.get_args(kind)) + "."
    return ""


if __name__ == "__main__":
    (DOCS / "configuration.md").write_text(configuration())
