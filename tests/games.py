"""Configs and rows of the waiting game (waiting.py), for service tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster import HERE, scripted_config


def waiting_config(
    folder: Path, rows: Path, environments: dict[str, dict[str, Any]], **sections: Any
) -> dict[str, Any]:
    """A config in which every environment is the waiting game, with an application of its own.

    Args:
        folder: where the output goes.
        rows: input file.
        environments: what their sections say beside that.
        sections: as for `scripted_config`.
    """
    config = scripted_config(
        folder,
        rows,
        folder / "requests",
        policy__engine_args__reply="go",
        policy__engine_args__latency_seconds=1.0,
        policy__engine_args__context_length=1_000_000,
        **sections,
    )
    config["environments"] = {
        name: {
            "entrypoint": f"{HERE}/waiting.py:Waiting",
            "agent": "gymnasium",
            "agent_options": {"max_turns": 10_000},
            "resources": {"num_cpus": 0.2},
            **section,
        }
        for name, section in environments.items()
    }
    return config


def game(number: int, starts: Path, **fields: Any) -> dict[str, Any]:
    """A task of the waiting game; `starts` gets a line when it starts."""
    message = {"role": "user", "content": f"Game {number}."}
    return {"responses_create_params": {"input": [message]}, "starts": str(starts), **fields}
