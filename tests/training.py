"""A collection to train on, by the real engine, and its exports, as docs/export.md makes them."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from tests.cluster import free_port, write_rows
from tests.exports import run_command

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "export.md").read_text()

#: The page's model, for which tests have another.
MODEL = "bundled:smollm2-135m"

REPEATS = 8


def section(title: str) -> str:
    """The text of the page below a heading."""
    _, found, rest = PAGE.partition(f"\n## {title}\n")
    assert found, f"docs/export.md has no section {title!r}"
    return rest.partition("\n## ")[0]


def run_code(title: str, model: Path, *, parquet: bool = False) -> dict[str, Any]:
    """Run the Python blocks of a section one after the other; returns the names they define.

    Args:
        title: of the section.
        model: trained instead of the page's.
        parquet: read the Parquet files where the page reads JSONL.
    """
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", section(title), re.S):
        block = block.replace(MODEL, str(model))
        if parquet:
            block, found = _JSONL.subn(r'"\1"', block)
            assert found == 1
        exec(block, names)
    return names


_JSONL = re.compile(r'"json", data_files="(exports/[a-z-]+)/train.jsonl"')


def export_all() -> None:
    """Run the commands at the top of the page, and DPO once more in each shape of NeMo RL."""
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.partition("\n## ")[0], re.S)
    commands = block.splitlines()
    for shape in ("nemo-rl", "text"):
        commands.append(
            f"gym-ray export dpo runs/demo --output exports/demo-dpo-{shape} --shape {shape}"
        )
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "gym-ray"
        assert run_command(*arguments)[0] == 0, command


def config(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """One collection with every kind of rollout: turns, tools, side branches, temperatures."""
    environment = {"resources": {"num_cpus": 0.2}}
    return {
        "policy": {
            "engine": "vllm",
            "model": str(checkpoint),
            "engine_args": {
                "dtype": "float32",
                "max_model_len": 2048,
                "max_num_seqs": 36,
                "kv_cache_memory_bytes": 256 * 1024**2,
            },
            "resources": {"num_cpus": 1},
        },
        "environments": {
            "talk": {
                "entrypoint": f"{HERE}/letters.py:Talk", "agent": "gymnasium", **environment,
            },
            "desk": {
                "entrypoint": f"{HERE}/letters.py:Desk",
                "agent": "tool_calling",
                "agent_options": {"max_turns": 4},
                **environment,
            },
            "drafts": {
                "entrypoint": f"{HERE}/letters.py:Letters",
                "agent": "external",
                "external": {"command": [sys.executable, "-S", str(HERE / "drafts.py")]},
                **environment,
            },
        },
        "verification": {"processes": 1},
        "serve": {"port": free_port()},
        "sampling": {"temperature": 1.0, "max_output_tokens": 96, "seed": 1},
        "collect": {
            "input": str(write_rows(folder / "tasks.jsonl", _tasks())),
            "output": str(folder / "runs" / "demo"),
            "num_repeats": REPEATS,
        },
    }  # fmt: skip


def _tasks() -> list[dict[str, Any]]:
    return [
        _task("talk", "Let us talk."),
        _task("talk", "Let us talk coolly.", temperature=0.8),
        _task("drafts", "Write something."),
        _task("drafts", "Write something cool.", temperature=0.8),
        _task("desk", DESK_INPUT, **DESK_PARAMS),
    ]


def _task(environment: str, prompt: Any, **params: Any) -> dict[str, Any]:
    return {
        "responses_create_params": {"input": prompt, **params},
        "agent_ref": {"type": "responses_api_agents", "name": environment},
    }


#: A history with reasoning and a call, as a conversation with a reasoning model has.
DESK_INPUT = [
    {"role": "system", "content": "You sit at a desk."},
    {"role": "user", "content": "What is 2 + 3?"},
    {"type": "reasoning", "id": "rs_1", "summary": [
        {"type": "summary_text", "text": "I had better add them."}]},
    {"type": "function_call", "call_id": "c1", "name": "add",
     "arguments": json.dumps({"first": 2, "second": 3})},
    {"type": "function_call_output", "call_id": "c1", "output": "5"},
    {"role": "assistant", "content": "It is 5."},
    {"role": "user", "content": "Now what you like."},
]  # fmt: skip
#: Two guided calls, then a free turn.
DESK_PARAMS = {"tool_choice": "required", "parallel_tool_calls": False, "max_tool_calls": 2}
