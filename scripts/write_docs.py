"""Writes the reference pages that are made from code: run it after changing a config key or a
column. A unit test compares the pages with what this prints.

    python scripts/write_docs.py

Owned here: the pages' order and the sentences around their tables; names, types and meanings are
those of the code.
"""

from __future__ import annotations

import itertools
import textwrap
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gym_ray import nemo_gym, task_fields
from gym_ray.config.environment import (
    DatasetConfig,
    EnvironmentConfig,
    GroupVerifierConfig,
    McpServerConfig,
)
from gym_ray.config.load import INTERNAL_FIELDS, PLAIN_KEYS, RunConfig
from gym_ray.config.policy import JudgeConfig
from gym_ray.config.section import Section
from gym_ray.export import conversations, dpo, nemo_gym_rows, rl, sft
from gym_ray.prepare import prepared_rows
from gym_ray.store import schema
from gym_ray.store.columns import Column, described
from gym_ray.task_fields import Field
from scripts import interfaces
from tests import suite

DOCS = Path(__file__).parent.parent / "docs"

CONFIGURATION_HEAD = """# Configuration

Made from `gym_ray/config/` by `scripts/write_docs.py`. Any key can be overridden on the
command line as `section.key=value`. Tasks may set `temperature`, `top_p` and (lower)
`max_output_tokens` in their `responses_create_params`.

`gym-ray config show CONFIG` prints every value with the line it came from, and
`gym-ray config check CONFIG` says whether it would run and what; both take overrides, and start
nothing.

A resumed run may change `policy.resources`, `policy.autoscaling`, `policy.startup_timeout_seconds`,
`policy.request_timeout_seconds`, the same keys of judges and their limits,
`verification.processes`, an environment's `resources`, `autoscaling`, `max_in_flight`, `priority`
and `datasets`, and of `collect`: `objective`, `extend`, `max_in_flight`, `max_attempts`,
`max_failed_share`, `report`, `report_seconds` and the timeouts; and `observability`. With
`collect.extend=true` `num_repeats` and `limit` may grow. Any other change is refused, with the
differing keys shown.

Values may come from environment variables (`${oc.env:NAME}`) and from other keys
(`${policy.model}`); `run.yaml` keeps every reference as it was written, not the value.
"""

FORMATS_HEAD = """# Formats

Made from the schemas in the code by `scripts/write_docs.py`. Names are stable: columns may be
added, none changes its meaning. `a.b` is part `b` of `a`, `a[].b` part `b` of each element of `a`.
How the files are read: [dataset.md](dataset.md#reading); how they are made: the pages named at
each.
"""

TESTING_HEAD = """# Testing

Made from `tests/suite.py` and the markers of the tests by `scripts/write_docs.py`.

```bash
scripts/test.sh                  # all parts, without what is long: about 20 minutes on two cores,
                                 # a fresh clone's installation included
scripts/test.sh all              # everything
scripts/test.sh unit engine      # parts; `all` before them has them whole
scripts/test.sh tests/unit/test_rows.py -k lossless    # anything pytest takes
```

A run ends with what each part took, the slowest tests, and what could not be checked on the
machine. It fails when a test does, or when a part takes longer than its budget;
`GYM_RAY_TEST_PATIENCE=2` doubles every budget and time limit, for a machine half as fast. A run of
everything that passes on a clean work tree leaves its commit in `.venv/all-tests-passed`.

A test may take 120 s. One that needs more, or is not worth its time to who has just cloned the
repository, says so with `@pytest.mark.long("why")`, and only `scripts/test.sh all` runs it.

## Parts

Budgets are minutes on two quiet cores.

| part | what it holds | budget | of `all` |
|---|---|---|---|
"""

TESTING_LONG = """
## What is long

Beside these tests, `scripts/test.sh all` installs bubblewrap where it can, repeats the sandbox
tests as an unprivileged user where it is root, and makes the environments of NeMo Gym, verl and the
clients from PyPI and npm.

| test | why only `scripts/test.sh all` runs it |
|---|---|
"""

JSONL = """`train.jsonl` has the same keys, with `tools` a list of objects and absent where there
are none, and messages as [below](#message)."""


def formats() -> str:
    """The page `docs/formats.md`."""
    parts = [
        FORMATS_HEAD,
        _section(
            "Task row",
            "A line of JSONL, read by `collect` and `prepare` and written by `prepare` and `export "
            "nemo-gym` (`tasks.jsonl`, where `agent_ref` is always an object). Required fields are "
            "marked.",
            _fields(task_fields.FIELDS),
        ),
        _section(
            "Prepared task row, Parquet",
            "Beside the JSONL of [`gym-ray prepare`](prepare.md): `train.parquet`, "
            "`validation.parquet`, `example.parquet`.",
            _columns(prepared_rows.COLUMNS),
        ),
        _section(
            "Rollout row",
            "`OUTPUT/rollouts/*.parquet` ([dataset.md](dataset.md)): one row per rollout, sorted "
            "by `task_index`, `rollout_index`. The schema version, "
            f"`{schema.SCHEMA_VERSION}`, is in the file metadata (`gym_ray.schema_version`).",
            _columns(schema.COLUMNS),
        ),
        _section(
            "Manifest row",
            "`OUTPUT/manifest.parquet`: one row per rollout of the run, done or not.",
            _columns(schema.MANIFEST_COLUMNS),
        ),
        _section(
            "RL row",
            "`gym-ray export rl` ([export.md](export.md#rl)): one row per branch of a rollout. In "
            "`train.jsonl` the same, with `reward_components` an object of numbers by name.",
            _columns(rl.COLUMNS),
        ),
        _section("SFT row", f"`gym-ray export sft`. {JSONL}", _columns(sft.COLUMNS)),
        _section(
            "DPO row, messages",
            f"`gym-ray export dpo`, for TRL. {JSONL}",
            _columns(dpo.SHAPES["messages"]),
        ),
        _section(
            "DPO row, NeMo RL",
            f"`gym-ray export dpo --shape nemo-rl`, for its `PreferenceDataset`. {JSONL}",
            _columns(dpo.SHAPES["nemo-rl"]),
        ),
        _section(
            "DPO row, text",
            "`gym-ray export dpo --shape text`, for NeMo RL's `BinaryPreferenceDataset`. "
            "`train.jsonl` has the same keys.",
            _columns(dpo.SHAPES["text"]),
        ),
        _section(
            "Message",
            "A message of SFT and DPO rows. In Parquet, where a column has one type, what a "
            "message lacks is null; in JSONL its key is absent, and `arguments` is an object, as "
            "chat templates expect it.",
            _columns(conversations.MESSAGES.children),
        ),
        _section(
            "NeMo Gym row",
            f"`gym-ray export nemo-gym`: lines of `{nemo_gym_rows.ROLLOUTS}.jsonl` and "
            f"`{nemo_gym_rows.FAILURES}.jsonl`. Required fields are in every row. `POST /run` "
            "answers the same, with the two indices only where the request has them.",
            _fields(nemo_gym.FIELDS),
        ),
    ]
    return "\n".join(parts)


def _section(title: str, text: str, rows: Iterable[str]) -> str:
    wrapped = textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join([f"## {title}", "", wrapped, "", *rows, ""])


def _columns(columns: Sequence[Column]) -> list[str]:
    head = ["| column | type | meaning |", "|---|---|---|"]
    return head + [f"| `{name}` | `{kind}` | {text} |" for name, kind, text in described(columns)]


def _fields(fields: Sequence[Field]) -> list[str]:
    """Neighbours that differ in their names alone are one row."""
    rows = ["| field | type | meaning |", "|---|---|---|"]
    for (kind, text, required), alike in itertools.groupby(fields, key=lambda field: field[1:]):
        first, *others = (field.name for field in alike)
        names = ", ".join(f"`{name}`" for name in (first, *(n.rpartition(".")[2] for n in others)))
        kind = f"`{kind}`".replace("|", "\\|") + (", required" if required else "")
        rows.append(f"| {names} | {kind} | {text} |")
    return rows


def configuration() -> str:
    """The page `docs/configuration.md`."""
    parts = [CONFIGURATION_HEAD, _plain_keys()]
    for name, field in RunConfig.model_fields.items():
        if name in INTERNAL_FIELDS:
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


def _plain_keys() -> str:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name in PLAIN_KEYS:
        meaning = (RunConfig.model_fields[name].description or "").replace("\n", " ")
        rows.append(f"| `{name}` | `null` | {meaning} |")
    return "\n".join([*rows, ""])


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


def testing() -> str:
    """The page `docs/testing.md`."""
    parts = [
        f"| `{part.name}` | {part.holds} | {part.minutes:g} | {part.all_minutes:g} |"
        for part in suite.PARTS.values()
    ]
    long = [
        f"| `{one.file}{f'::{one.test}' * bool(one.test)}` | {one.reason} |"
        for one in suite.long_tests()
    ]
    return TESTING_HEAD + "\n".join(parts) + "\n" + TESTING_LONG + "\n".join(long) + "\n"


#: What makes each page.
PAGES = {
    "configuration.md": configuration,
    "formats.md": formats,
    "failures.md": interfaces.failures,
    "commands.md": interfaces.commands,
    "python.md": interfaces.python,
    "http.md": interfaces.http,
    "testing.md": testing,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
