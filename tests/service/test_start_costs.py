"""What every command's start pays for in processes of its own."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["gym_ray.serving.lease", "gym_ray.collection.monitor"])
def test_an_actor_of_a_command_imports_little_more_than_itself(module: str) -> None:
    """Ray's worker has imported Ray; the rest would be half of the CPU time of its start."""
    code = f"import sys, {module}; print(*sys.modules)"

    imported = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60
    ).stdout.split()

    assert module in imported
    assert not {"ray", "numpy", "pyarrow", "pydantic", "yaml"} & set(imported)
