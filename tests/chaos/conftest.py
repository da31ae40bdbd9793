"""The collection that chaos tests disturb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chaos.commands import IN_FLIGHT, ROLLOUTS
from tests.cluster import scripted_config, sums, write_rows


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    rows = write_rows(tmp_path / "tasks.jsonl", sums(ROLLOUTS, tmp_path))
    config: dict[str, Any] = scripted_config(
        tmp_path,
        rows,
        tmp_path / "requests",
        collect__max_in_flight=IN_FLIGHT,
        collect__drain_timeout_seconds=20,
    )
    config["policy"]["engine_args"]["latency_seconds"] = 0.3
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
