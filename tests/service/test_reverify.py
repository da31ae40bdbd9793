"""`reverify` on a real local Ray: every rollout once, in order, and continued after a stop."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gym_ray
from gym_ray.errors import FailureKind
from gym_ray.rollout import Rollout
from tests.cluster import until
from tests.stored import stored_run, sum_rollout, unplayed

#: As the arithmetic environment, but the answer may stand in a sentence.
pytestmark = pytest.mark.long(
    "commands of their own (90 s of CPU time); what a command judges, keeps and continues is "
    "in tests/unit/test_reverify_command.py"
)

LENIENT = """
import time
from gym_ray import Environment, Outcome

class Lenient(Environment):
    def verify(self, outcome: Outcome) -> float:
        if "raise" in outcome.task.row:
            raise ValueError("this verifier raises")
        time.sleep(outcome.task.row.get("seconds", 0))
        return float(outcome.task["expected_answer"] in outcome.text)
"""


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The override that puts another verifier in place."""
    folder = tmp_path_factory.mktemp("lenient")
    (folder / "lenient.py").write_text(LENIENT)
    return f"environments.arithmetic.entrypoint={folder}/lenient.py:Lenient"


def rollouts_of(path: Path) -> list[Rollout]:
    return list(gym_ray.read_rollouts(path))


def test_rewards_are_those_of_the_verifier_of_now(
    cluster: str, tmp_path: Path, lenient: str
) -> None:
    replies = ("{}", "It is {}.", "no idea")
    before = [
        sum_rollout(task, repeat, reply=replies[repeat].format(2 * task))
        for task in range(60)
        for repeat in range(3)
    ]
    before[7] = unplayed(2, 1)
    before[8] = sum_rollout(
        2, 2, reply="4", status="failed", error_kind=FailureKind.VERIFIER_ERROR, error="broke"
    )
    before[9] = sum_rollout(3, 0, reply="6", **{"raise": True})
    source = stored_run(tmp_path / "run", before)

    report = gym_ray.reverify(source, tmp_path / "new", overrides=[lenient], quiet=True)

    after = rollouts_of(tmp_path / "new")
    assert [r.spec.rollout_id for r in after] == [r.spec.rollout_id for r in rollouts_of(source)]
    summary = gym_ray.RunSummary.read(tmp_path / "new" / "summary.json")
    assert {rollout.run_id for rollout in after} == {summary.run_id}
    assert (summary.completed, summary.failed, summary.pending) == (178, 2, 0)
    changes = report.changes
    assert (changes.rollouts, changes.failed_before, changes.failed_now) == (180, 1, 1)
    assert (changes.raised, changes.lowered, changes.recovered) == (59, 0, 1)
    assert report.failures == {"verifier_error": 1}
    by_place = {(r.spec.task_index, r.spec.rollout_index): r for r in after}
    assert [by_place[5, repeat].reward for repeat in range(3)] == [1.0, 1.0, 0.0]
    assert by_place[2, 2].reward == 1.0
    assert by_place[3, 0].error == "ValueError: this verifier raises"
    saved = json.loads((tmp_path / "new" / "reverify.json").read_text())
    assert saved["changes"] == dataclasses.asdict(changes)
    # A finished one has nothing left to do, and says the same again.
    assert gym_ray.reverify(source, tmp_path / "new", overrides=[lenient], quiet=True) == report
    # And takes neither other rollouts nor another config.
    other = stored_run(tmp_path / "other", [sum_rollout(2, reply="4")])
    with pytest.raises(gym_ray.ConfigError, match="is of other rollouts"):
        gym_ray.reverify(other, tmp_path / "new", overrides=[lenient], quiet=True)
    with pytest.raises(gym_ray.ConfigError, match="begun with another config"):
        gym_ray.reverify(source, tmp_path / "new", quiet=True)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_cut_short_is_continued(
    cluster: str, tmp_path: Path, lenient: str, ending: signal.Signals
) -> None:
    source = stored_run(
        tmp_path / "run", [sum_rollout(n, reply=str(2 * n), seconds=0.1) for n in range(600)]
    )
    new = tmp_path / "new"
    command = [sys.executable, "-m", "gym_ray", "reverify", str(source), "--output", str(new)]
    environment = {**os.environ, "RAY_ADDRESS": cluster}

    process = subprocess.Popen([*command, lenient], env=environment, stderr=subprocess.PIPE)
    until(lambda: any(new.glob("segments/*/*.parquet")), 120, "a segment is written")
    process.send_signal(ending)
    process.communicate(timeout=60)
    assert process.returncode == (130 if ending == signal.SIGTERM else -9)
    done = len(gym_ray.read_rollouts(new))
    assert 0 < done < 600

    again = subprocess.run(
        [*command, lenient, "--json"], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(again.stdout)["changes"]["judged"] == 600
    assert f"{done} of 600 rollouts done" in again.stderr
    rewards = [rollout.reward for rollout in rollouts_of(new)]
    assert rewards == [1.0] * 600
