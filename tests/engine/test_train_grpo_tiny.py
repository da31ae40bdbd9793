"""The training loop end to end: its own checks hold across updates of the weights."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long(
    "A training from nothing, of minutes; updates of weights alone are in the engine's "
    "test_live_weights.py, a GRPO step in test_grpo.py."
)
@pytest.mark.timeout(600)
def test_two_rounds_of_collecting_learning_and_refitting() -> None:
    script = ROOT / "scripts" / "train_grpo_tiny.py"
    # Two rounds show that tokens are sampled by the weights they are labelled with, not learning.
    done = subprocess.run(
        [sys.executable, script, "--fit-steps", "120", "--iterations", "2", "--margin", "-1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    rounds = re.findall(r"version (\d): mean reward .*ratios within (\S+) of 1", done.stdout)
    assert [version for version, _ in rounds] == ["0", "1"]
    assert all(float(worst) < 1e-3 for _, worst in rounds)
