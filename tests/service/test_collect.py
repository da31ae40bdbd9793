"""`collect` with the scripted policy, on a real Ray and embedded, through its public interface."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import gym_ray
from gym_ray.store.rows import broken_invariants
from gym_ray.store.schema import SCHEMA
from tests.cluster import HERE, free_port, logged_requests, scripted_config, sums, write_rows


def collect(config: dict[str, Any], *overrides: str) -> gym_ray.RunSummary:
    return gym_ray.collect(config, overrides, quiet=True)


def ids_of(summary: gym_ray.RunSummary) -> set[str]:
    return {rollout.spec.rollout_id for rollout in gym_ray.read_rollouts(summary.output)}


class Host(NamedTuple):
    """Where collections run.

    Attributes:
        cluster: `ray` or `local`.
        requests: log of the policy's requests.
    """

    cluster: str
    requests: Path

    def config(self, folder: Path, rows: Path, **sections: Any) -> dict[str, Any]:
        """See `scripted_config`."""
        return scripted_config(folder, rows, self.requests, cluster=self.cluster, **sections)


@pytest.fixture(scope="module", params=["ray", "local"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Host:
    if request.param == "ray":
        return Host("ray", request.getfixturevalue("requests"))
    return Host("local", tmp_path_factory.mktemp("embedded") / "requests")


class Finished(NamedTuple):
    """A run that is complete."""

    config: dict[str, Any]
    summary: gym_ray.RunSummary


@pytest.fixture(scope="module")
def finished(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    rows = write_rows(folder / "tasks.jsonl", sums(100, folder))
    config = host.config(folder, rows, collect__num_repeats=3)
    return Finished(config, collect(config))


def test_every_rollout_is_collected_once_and_keeps_the_token_contract(finished: Finished) -> None:
    summary = finished.summary

    assert (summary.expected, summary.completed) == (300, 300)
    assert summary.reward.mean == 1.0
    assert summary.reward.coverage == 1.0
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert len({rollout.spec.rollout_id for rollout in rollouts}) == 300
    order = [(rollout.spec.task_index, rollout.spec.rollout_index) for rollout in rollouts]
    assert order == [(task, repeat) for task in range(100) for repeat in range(3)]
    assert broken_invariants(rollouts) == []
    for rollout in rollouts:
        task = json.loads(rollout.spec.task)
        prompt_length = rollout.turns[0].prompt_length
        decoded = bytes(token for token in rollout.token_ids.tolist() if token < 256).decode()
        assert task["responses_create_params"]["input"][0]["content"] in decoded
        assert rollout.loss_mask[prompt_length:].all()
        assert json.loads(rollout.response)[0]["content"][0]["text"] == task["expected_answer"]
    arrow = gym_ray.read_rollouts(summary.output).to_arrow()
    assert arrow.schema.names == SCHEMA.names


class Troubled(NamedTuple):
    """A run of which some rows are wrong, and some requests fail.

    Attributes:
        broken: lines of the input that are no tasks.
        too_long: the line whose prompt does not fit in the context.
        misbehaving: lines whose environment fails, and how.
        flaky: lines whose requests fail now and then.
    """

    summary: gym_ray.RunSummary
    rollouts: list[gym_ray.Rollout]
    path: Path
    broken: list[int]
    too_long: int
    misbehaving: dict[int, str]
    flaky: range

    @property
    def wrong(self) -> set[int]:
        return {*self.broken, self.too_long, *self.misbehaving}


@pytest.fixture(scope="module")
def troubled(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Troubled:
    """A thousand rows with ten malformed ones, one that is too long, five whose environment
    misbehaves, and sixty flaky ones.
    """
    folder = tmp_path_factory.mktemp("troubled")
    rows = sums(1000, folder)
    rows[949]["responses_create_params"]["input"][0]["content"] = "1 + 1 = ?" + "x" * 5000
    rows[531]["verify"], rows[534]["verify"], rows[537]["verify"] = "hang", "crash", "raise"
    rows[540]["reset_error"] = "no such level"
    rows[543]["reset_seconds"] = 3600.0
    misbehaving = {
        532: "verifier_timeout",
        535: "verifier_error",
        538: "verifier_error",
        541: "environment_error",
        544: "rollout_timeout",
    }
    flaky = range(10, 70)
    for number in flaky:
        rows[number - 1]["responses_create_params"]["instructions"] = "flaky"
    lines = [json.dumps(row) for row in rows]
    user = {"role": "user", "content": "1 + 1 = ?"}
    broken = {
        3: "{not json",
        101: "[1, 2]",
        202: json.dumps({"expected_answer": "2"}),
        303: json.dumps({"responses_create_params": "1 + 1 = ?", "expected_answer": "2"}),
        404: json.dumps({"responses_create_params": {"input": []}, "expected_answer": "2"}),
        505: json.dumps(
            {
                "responses_create_params": {"input": [{**user, "role": "robot"}]},
                "expected_answer": "2",
            }
        ),
        606: json.dumps(
            {"responses_create_params": {"input": [user], "temprature": 1}, "expected_answer": "2"}
        ),
        707: json.dumps({"responses_create_params": {"input": [user]}}),
        808: json.dumps(
            {"responses_create_params": {"input": [user]}, "agent_ref": 7, "expected_answer": "2"}
        ),
        909: json.dumps(
            {
                "responses_create_params": {"input": [user], "temperature": "hot"},
                "expected_answer": "2",
            }
        ),
    }
    for number, line in broken.items():
        lines[number - 1] = line
    path = folder / "tasks.jsonl"
    path.write_text("\n".join(lines))
    config = host.config(
        folder,
        path,
        collect__max_in_flight=256,
        collect__max_attempts=8,
        # The others wait while a verifier hangs.
        collect__rollout_timeout_seconds=20,
    )
    summary = collect(config)
    rollouts = list(gym_ray.read_rollouts(summary.output))
    return Troubled(summary, rollouts, path, sorted(broken), 950, misbehaving, flaky)


def test_malformed_rows_are_failures_that_say_where_they_stand(troubled: Troubled) -> None:
    summary, path = troubled.summary, troubled.path

    assert (summary.completed, summary.failed, summary.pending) == (984, 16, 0)
    assert summary.failure_kinds == {
        "task_invalid": 10, "policy_rejected": 1, **Counter(troubled.misbehaving.values())
    }  # fmt: skip
    assert summary.reward.coverage == 0.984
    assert summary.reward.mean == 1.0
    invalid = [r for r in troubled.rollouts if r.error_kind == "task_invalid"]
    assert [rollout.spec.source_line for rollout in invalid] == troubled.broken
    for rollout in invalid:
        assert rollout.reward is None
        assert rollout.error is not None
        assert rollout.error.startswith(f"{path}:{rollout.spec.source_line}: row ")


def test_misbehaving_environments_cost_their_own_rollouts_only(troubled: Troubled) -> None:
    kinds = {
        rollout.spec.source_line: str(rollout.error_kind)
        for rollout in troubled.rollouts
        if rollout.spec.source_line in troubled.misbehaving
    }
    others = [r for r in troubled.rollouts if r.spec.source_line not in troubled.wrong]

    assert kinds == troubled.misbehaving
    assert len(others) == 984
    assert {(rollout.status, rollout.reward) for rollout in others} == {("completed", 1.0)}


def test_policy_failures_are_retried_and_counted(troubled: Troubled, host: Host) -> None:
    flaky = [r for r in troubled.rollouts if r.spec.source_line in troubled.flaky]

    assert [rollout.status for rollout in flaky] == ["completed"] * 60
    attempts = {rollout.spec.rollout_id: rollout.attempts for rollout in flaky}
    assert troubled.summary.retried == sum(count > 1 for count in attempts.values()) > 0
    assert len(logged_requests(host.requests, attempts)) == sum(attempts.values())


def test_a_prompt_longer_than_the_context_is_rejected_as_data(troubled: Troubled) -> None:
    rejected = [r for r in troubled.rollouts if r.error_kind == "policy_rejected"]

    assert [rollout.spec.source_line for rollout in rejected] == [troubled.too_long]


def test_a_finished_run_is_not_run_again_and_an_extended_one_only_where_it_grew(
    finished: Finished, tmp_path: Path, host: Host
) -> None:
    again = collect(finished.config)

    assert (again.completed, again.run_id) == (300, finished.summary.run_id)
    assert len(logged_requests(host.requests, ids_of(again))) == 300

    tasks = Path(finished.config["collect"]["input"])
    before = tasks.read_text()
    grown = shutil.copytree(again.output, tmp_path / "run")
    try:
        write_rows(tasks, sums(110, tasks.parent))
        with pytest.raises(gym_ray.ConfigError, match=r"input changed.*collect\.extend=true"):
            collect(finished.config)
        more = ["collect.extend=true", "collect.num_repeats=4"]
        extended = collect(finished.config, f"collect.output={grown}", *more)
    finally:
        tasks.write_text(before)

    assert (extended.expected, extended.completed) == (440, 440)
    asked = logged_requests(host.requests, ids_of(extended))
    assert len(asked) == len(set(asked)) == 440
    places = [(r.spec.task_index, r.spec.rollout_index) for r in gym_ray.read_rollouts(grown)]
    assert places == [(task, repeat) for task in range(110) for repeat in range(4)]


def test_a_changed_config_is_refused_with_the_differing_keys(finished: Finished) -> None:
    with pytest.raises(gym_ray.ConfigError, match=r"sampling\.temperature: 1\.0 -> 0\.5"):
        collect(finished.config, "sampling.temperature=0.5")
    assert collect(finished.config, "collect.max_in_flight=2").completed == 300


def test_what_a_command_leaves_is_run_by_the_next_and_holds_back_nothing(
    tmp_path: Path, host: Host
) -> None:
    """Stragglers at the deadline of the run, and a failure that may pass; the others stay."""
    rows = sums(800, tmp_path)
    straggles, broken = tmp_path / "straggles", tmp_path / "sandbox-is-broken"
    straggles.touch()
    broken.touch()
    # One in every row group of the manifest, and more row groups than are in work at once.
    for index in (7, 300, 600, 790):
        rows[index]["reset_waits_while"] = str(straggles)
    rows[4]["reset_sandbox_error_while"] = str(broken)
    rows[6]["verify"] = "raise"
    path = write_rows(tmp_path / "tasks.jsonl", rows)
    config = host.config(
        tmp_path,
        path,
        collect__run_timeout_seconds=15,
        collect__drain_timeout_seconds=1,
        collect__max_attempts=2,
    )

    summary = collect(config)

    assert summary.interrupted == "run_timeout"
    assert (summary.completed, summary.failed, summary.pending) == (794, 2, 4)
    assert summary.failure_kinds == {"sandbox_error": 1, "verifier_error": 1}
    assert summary.seconds < 100
    assert len(list(gym_ray.read_rollouts(summary.output))) == 796

    straggles.unlink()
    broken.unlink()
    finished = collect(config, "collect.run_timeout_seconds=300")

    assert (finished.interrupted, finished.completed, finished.pending) == (None, 799, 0)
    assert finished.failure_kinds == {"verifier_error": 1}
    ids = [rollout.spec.rollout_id for rollout in gym_ray.read_rollouts(finished.output)]
    assert len(ids) == len(set(ids)) == 800
    asked = logged_requests(host.requests, set(ids))
    assert len(asked) == len(set(asked)) == 800


def test_a_run_begun_in_one_place_is_continued_in_the_other(
    cluster: str, host: Host, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "tasks.jsonl", sums(20, tmp_path))
    (tmp_path / "holds").touch()
    rows = sums(20, tmp_path)
    rows[3]["reset_waits_while"] = str(tmp_path / "holds")
    write_rows(path, rows)
    config = host.config(
        tmp_path,
        path,
        collect__run_timeout_seconds=8,
        collect__drain_timeout_seconds=1,
    )
    first = collect(config)
    assert (first.interrupted, first.pending) == ("run_timeout", 1)
    (tmp_path / "holds").unlink()

    other = "local" if host.cluster == "ray" else "ray"
    second = collect(config, f"cluster={other}", "collect.run_timeout_seconds=300")

    assert (second.completed, second.pending, second.run_id) == (20, 0, first.run_id)
    assert len(ids_of(second)) == 20


def test_a_policy_that_cannot_start_is_one_clear_error(host: Host, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "tasks.jsonl", sums(2, tmp_path))
    config = host.config(tmp_path, path)
    config["policy"]["engine_args"]["reply"] = "tests.replies:no_such_function"

    with pytest.raises(gym_ray.ConfigError, match="no_such_function") as caught:
        collect(config)

    assert "Traceback" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_more_rollouts_at_once_than_one_stage_drives_are_spread_over_several(
    requests: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "tasks.jsonl", sums(600, tmp_path))
    config = scripted_config(tmp_path, path, requests, collect__max_in_flight=1100)

    summary = collect(config)

    assert (summary.completed, summary.reward.mean) == (600, 1.0)
    assert len(ids_of(summary)) == 600


#: What differs between any two runs of the same tasks.
MEASURED = ("run_id", "started_at", "seconds", "turns")


def test_rows_are_the_same_on_ray_and_embedded(requests: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "tasks.jsonl", sums(40, tmp_path))
    found = []
    for cluster in ("ray", "local"):
        config = scripted_config(
            tmp_path, path, requests, cluster=cluster, collect__num_repeats=2,
            collect__output=str(tmp_path / cluster),
        )  # fmt: skip
        table = gym_ray.read_rollouts(collect(config).output).to_arrow()
        turns = [
            [{k: v for k, v in turn.items() if not k.endswith("_seconds")} for turn in row]
            for row in table["turns"].to_pylist()
        ]
        found.append((table.drop_columns(list(MEASURED)).to_pylist(), turns))

    assert found[0] == found[1]
    assert len(found[0][0]) == 80


@pytest.mark.long(
    "starts Ray and Serve twice (37 s of CPU time); that one of its own is started, and ends with "
    "its command, is in tests/chaos/test_kills.py"
)
def test_a_process_may_have_one_ray_after_another(tmp_path: Path, requests: Path) -> None:
    """As two collections with outside agents have, without `RAY_ADDRESS`."""
    path = write_rows(tmp_path / "tasks.jsonl", sums(1, tmp_path))
    config = scripted_config(tmp_path, path, requests, serve__port=free_port())
    (tmp_path / "config.json").write_text(json.dumps(config))
    program = """
from gym_ray.config.load import load_config
from gym_ray.serving.cluster import connect, disconnect
from gym_ray.serving.http import start_http

config = load_config("config.json")
for _ in range(2):
    cluster = connect(config)
    print(start_http(config.serve, print))
    disconnect(cluster)
"""
    surroundings = {name: v for name, v in os.environ.items() if name != "RAY_ADDRESS"}

    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=surroundings | {"PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    address = f"http://127.0.0.1:{config['serve']['port']}\n"
    assert (ended.stdout, ended.returncode) == (address * 2, 0), ended.stderr
