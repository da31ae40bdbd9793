"""Judging stored rollouts anew, without Ray: one row at a time, the report, and what is refused."""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gym_ray.config.environment import EnvironmentConfig, VerificationConfig
from gym_ray.environment import Environment, Outcome
from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.reverification import reverify_stage
from gym_ray.reverification.report import render_changes
from gym_ray.reverification.reverify import reverify
from gym_ray.reverification.reverify_stage import (
    DIVERGED,
    KEPT,
    Reverifier,
    ReverifySettings,
    is_judgeable,
    rollouts_of,
)
from gym_ray.reverification.reward_changes import compare
from gym_ray.rollout import Rollout
from gym_ray.store.dataset_files import dataset_files
from gym_ray.store.index import Index
from gym_ray.store.rows import broken_invariants
from gym_ray.store.segments import SegmentStore
from gym_ray.verdict import Verdict
from tests.stored import arithmetic_config, stored_run, sum_rollout, unplayed
from tests.verification import on_loop

Judge = Callable[..., Rollout]


class Lenient(Environment):
    """Reward for the digits of the answer; the row says what goes wrong, and how often."""

    def __init__(self) -> None:
        self.attempts = 0

    async def verify(self, outcome: Outcome) -> Verdict:
        self.attempts += 1
        if self.attempts <= outcome.task.row.get("gone", 0):
            raise RolloutFailure(FailureKind.SANDBOX_ERROR, "the sandbox is gone")
        if "raise" in outcome.task.row:
            raise ValueError("this verifier raises")
        if "hang" in outcome.task.row:
            await asyncio.Event().wait()
        right = float(outcome.task["expected_answer"] in outcome.text)
        return Verdict(right, {"right": right}, {"cut": outcome.truncation_reason is not None})


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    monkeypatch.setattr(reverify_stage, "_BACKOFF_SECONDS", 0)

    def one(rollout: Rollout, environment: Environment | None = None, **fields: Any) -> Rollout:
        environment = environment or Lenient()
        section = EnvironmentConfig(**fields)
        settings = ReverifySettings(
            run_id="new",
            sections={"arithmetic": section},
            base_directory=".",
            verification=VerificationConfig(timeout_seconds=0.2),
            timeout_seconds=5,
            max_attempts=3,
            files=(),
            pass_id="p",
            store=SegmentStore(tmp_path),
        )
        reverifier = Reverifier(environment, section, on_loop(environment, 0.2), settings)
        found = asyncio.run(reverifier.reverify(rollout))
        assert broken_invariants([found]) == []
        assert found.response == rollout.response
        assert found.token_ids.tolist() == rollout.token_ids.tolist()
        return found

    return one


def test_a_verdict_of_now_replaces_the_old_one(judge: Judge) -> None:
    rollout = sum_rollout(2, reply="It is 4.", metrics={"old": 1.0})

    found = judge(rollout)

    assert (rollout.reward, found.reward) == (0.0, 1.0)
    assert found.reward_components == {"right": 1.0}
    assert found.metrics == {"cut": 0.0}
    assert (found.started_at, found.attempts) == (rollout.started_at, rollout.attempts)


def test_a_truncated_rollout_stays_truncated(judge: Judge) -> None:
    found = judge(sum_rollout(2, reply="4", status="truncated", truncation_reason="length"))

    assert (found.status, found.truncation_reason) == ("truncated", "length")
    assert found.metrics == {"cut": 1.0}


@pytest.mark.parametrize(
    ("field", "kind"), [("raise", "verifier_error"), ("hang", "verifier_timeout")]
)
@pytest.mark.parametrize("reason", [None, "max_turns"])
def test_a_verifier_failure_takes_the_reward_and_nothing_else(
    judge: Judge, field: str, kind: str, reason: Any
) -> None:
    fields = {"status": "truncated", "truncation_reason": reason} if reason else {}
    rollout = sum_rollout(2, reply="4", metrics={"old": 1.0}, **{field: True}, **fields)

    found = judge(rollout)

    assert (found.status, found.error_kind, found.reward) == ("failed", kind, None)
    assert (found.reward_components, found.metrics, found.turn_rewards) == ({}, {}, ())

    class Mended(Lenient):
        async def verify(self, outcome: Outcome) -> Verdict:
            return Verdict(0.5)

    assert is_judgeable(found)
    mended = judge(found, Mended())
    assert (mended.status, mended.truncation_reason) == (rollout.status, reason)
    assert (mended.reward, mended.error_kind, mended.error) == (0.5, None, None)


def test_failures_that_may_pass_are_tried_again_up_to_max_attempts(judge: Judge) -> None:
    assert judge(sum_rollout(2, reply="4", gone=2)).reward == 1.0

    found = judge(sum_rollout(2, reply="4", gone=3))
    assert (found.error_kind, found.error) == ("sandbox_error", "the sandbox is gone")


def test_a_rollout_that_cannot_be_replayed_keeps_its_verdict(judge: Judge) -> None:
    rollout = sum_rollout(2, reply="no idea", metrics={"old": 1.0, f"{KEPT}deadline": 1.0})
    rollout = dataclasses.replace(rollout, agent="external", reward=0.25)
    external = {"url": "http://localhost:1", "reward_from_reply": True}

    found = judge(rollout, agent="external", external=external)

    assert found.reward == 0.25
    assert found.metrics == {"old": 1.0, f"{KEPT}outside_reward": 1.0}


def test_only_rollouts_with_something_to_judge_are_judged() -> None:
    assert is_judgeable(sum_rollout(1, reply=""))
    assert not is_judgeable(unplayed(1))


def test_rows_are_read_by_their_place(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", [sum_rollout(n, reply=str(n)) for n in range(5)])
    other = stored_run(tmp_path / "other", [sum_rollout(9, reply="9")])
    files = [*dataset_files(run), tmp_path / "unused.parquet", *dataset_files(other)]
    places = pa.table({"file": pa.array([0, 2, 0], pa.int32()), "row": pa.array([3, 0, 1])})

    assert [rollout.spec.task_index for rollout in rollouts_of(files, places)] == [3, 9, 1]


def test_the_report_counts_every_rollout_once(tmp_path: Path) -> None:
    verifier_error = {"status": "failed", "error_kind": FailureKind.VERIFIER_ERROR, "error": "x"}
    before = [
        sum_rollout(0, reply="0"),  # 1 as before
        sum_rollout(1, reply="is 2"),  # 0 to 1
        sum_rollout(2, reply="4"),  # 1 to 0.25
        sum_rollout(3, reply="6"),  # 1, fails now
        sum_rollout(4, reply="8"),  # 1, kept
        sum_rollout(5, reply="10", **verifier_error),  # has a reward now
        unplayed(6),
        sum_rollout(7, reply="14"),  # 1, diverged
    ]
    change = dataclasses.replace
    after = [
        before[0],
        change(before[1], reward=1.0),
        change(before[2], reward=0.25),
        change(before[3], reward=None, status="failed", error_kind=FailureKind.VERIFIER_TIMEOUT),
        change(before[4], metrics={f"{KEPT}mcp_tool": 1.0}),
        change(before[5], reward=0.5, status="completed", error_kind=None, error=None),
        before[6],
        change(before[7], metrics={DIVERGED: 2.0}),
    ]
    runs = {
        name: stored_run(tmp_path / name, rollouts)
        for name, rollouts in {"before": before, "after": after}.items()
    }
    indices = {name: Index.read(dataset_files(run)) for name, run in runs.items()}

    report = compare(
        indices["before"],
        indices["after"],
        source_path=runs["before"],
        output=runs["after"],
        max_failed_share=0.05,
        interrupted=None,
    )

    changes = report.changes
    assert changes.rollouts == 8
    assert changes.judged + changes.kept + changes.failed_now + changes.failed_before == 8
    assert (changes.judged, changes.kept, changes.failed_now, changes.failed_before) == (5, 1, 1, 1)
    assert (changes.raised, changes.lowered, changes.recovered, changes.diverged) == (1, 1, 1, 1)
    assert changes.changed == 4
    assert changes.before.mean == pytest.approx(5 / 6)  # 1 0 1 1 1 - - 1
    assert changes.after.mean == pytest.approx(4.75 / 6)  # 1 1 .25 - 1 .5 - 1
    assert (changes.before.coverage, changes.after.coverage) == (0.75, 0.75)
    assert report.kept == {"mcp_tool": 1}
    assert report.failures == {"verifier_timeout": 1}
    assert [(row["task_index"], row["before"], row["after"]) for row in report.largest] == [
        (1, 0.0, 1.0),
        (2, 1.0, 0.25),
    ]
    assert [row["task_index"] for row in report.first_failures] == [3]
    assert report.environments == {"arithmetic": changes}
    assert json.loads(report.to_json())["changes"]["raised"] == 1
    text = render_changes(report)
    assert "8 rollouts = 5 judged anew + 1 kept + 1 failed now + 1 failed before" in text
    assert before[1].spec.rollout_id in text


def test_a_report_of_nothing_done_yet_is_all_pending(tmp_path: Path) -> None:
    source = stored_run(tmp_path / "run", [sum_rollout(n, reply="x") for n in range(3)])

    report = compare(
        Index.read(dataset_files(source)),
        Index.read([]),
        source_path=source,
        output=tmp_path / "new",
        max_failed_share=0.05,
        interrupted="signal",
    )

    assert (report.pending, report.changes.rollouts, report.changes.after.mean) == (3, 0, None)
    assert "0 rollouts = 0 judged anew + 0 kept + 0 failed now + 0 failed before; 3 pending" in (
        render_changes(report)
    )


def refusal(source: Path, output: Path, **arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        reverify(source, output, quiet=True, **arguments)
    assert not (output / "rollouts").exists()
    return str(caught.value)


def test_what_holds_no_rollouts_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "holds no rollouts" in refusal(tmp_path / "empty", tmp_path / "out")


def test_a_folder_of_shards_needs_a_config(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", [sum_rollout(1, reply="2")])
    shards = (run / "rollouts").rename(tmp_path / "shards")

    assert "--config" in refusal(shards, tmp_path / "out")


def test_rollouts_of_an_environment_that_is_not_configured_are_refused(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", [sum_rollout(1, reply="2")])
    config = tmp_path / "other.yaml"
    config.write_text(json.dumps({"environments": {"math": {}}}))

    says = refusal(run, tmp_path / "out", config=config)

    assert "environment 'arithmetic', which the config has not; it has math" in says


def test_the_source_cannot_be_the_output(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", [sum_rollout(1, reply="2")])

    with pytest.raises(ConfigError, match="is what is reverified; name a new folder"):
        reverify(run, run, quiet=True)


def test_runs_that_share_ids_are_not_mixed(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("one", "two"):
        rollout = dataclasses.replace(sum_rollout(1, reply="2"), run_id=name)
        run = stored_run(tmp_path / name, [rollout])
        (file,) = dataset_files(run)
        file.rename(shards / f"{name}.parquet")
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(arithmetic_config(tmp_path)))

    says = refusal(shards, tmp_path / "out", config=config)

    assert "holds 1 rollouts of several runs under one ID" in says


def test_a_run_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    from gym_ray.config.load import load_config
    from gym_ray.store.run_directory import RunDirectory

    run = stored_run(tmp_path / "run", [sum_rollout(1, reply="2")])
    writing = RunDirectory.open(load_config(arithmetic_config(run)))
    try:
        assert "another gym-ray process is writing" in refusal(run, tmp_path / "out")
    finally:
        writing.close()


def test_the_command_needs_an_output_and_has_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import sys

    from gym_ray.cli.main import main

    def run(*arguments: str) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", ["gym-ray", "reverify", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out + output.err

    code, says = run("--help")
    assert code == 0
    assert "gym-ray reverify runs/demo" in says
    assert run("runs/none")[0] == 2
    code, says = run("runs/none", "--output", "runs/new")
    assert code == 2
    assert "no such folder" in says
