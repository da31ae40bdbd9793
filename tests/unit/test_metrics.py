"""Metrics of stored rollouts: what is counted, what is left out, and what the command says."""

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gym_ray.cli.main import main
from gym_ray.errors import ConfigError, FailureKind
from gym_ray.metrics import task_values
from gym_ray.metrics.comparison import compare
from gym_ray.metrics.facts import groups
from gym_ray.metrics.metrics import metrics
from gym_ray.metrics.task_scores import Options
from gym_ray.rollout import Rollout
from gym_ray.store.segments import SegmentStore
from tests.stored import stored_run, sum_rollout, unplayed

RunCli = Callable[..., tuple[int, str, str]]


def run_of(folder: Path, rewards: list[list[float]], **options: Any) -> Path:
    """A run with these rewards, a list per task."""
    rollouts = [
        sum_rollout(task, repeat, reply="", reward=reward)
        for task, group in enumerate(rewards)
        for repeat, reward in enumerate(group)
    ]
    return stored_run(folder, rollouts, **options)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> RunCli:
    """Run `gym-ray metrics`; exit code, standard output, standard error."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gym-ray", "metrics", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err  # type: ignore[return-value]

    return run


def test_scores_agree_with_nemo_gym_over_a_stored_run(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])

    found = metrics(run).overall

    shown = {name: round(score.percent, 4) for name, score in found.scores.items()}
    assert shown["pass@1"] == 50.0
    assert shown["pass@2"] == 61.1111
    assert shown["pass@4"] == 66.6667
    assert shown["avg-of-2"] == 50.0
    assert 100 * found.across_runs["2"]["std"] == pytest.approx(23.5702, abs=1e-4)
    assert found.across_runs["2"]["standard_error"] == pytest.approx(0.235702 / 2**0.5, abs=1e-6)
    assert (found.never_passed, found.sometimes_passed, found.always_passed) == (1, 1, 1)
    assert not any(name.startswith("best@") for name in shown)


def test_every_score_shows_the_tasks_it_is_of(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [[1, 0, 0], [0]])

    scores = metrics(run, Options(ks=(1, 3))).overall.scores

    assert scores["pass@1"].percent == pytest.approx(16.6667, abs=1e-4)
    assert (scores["pass@3"].fraction, scores["pass@3"].percent) == (1.0, 100.0)
    assert (scores["pass@3"].tasks, scores["pass@3"].task_coverage) == (1, 0.5)
    assert scores["pass@3"].interval is None
    assert scores["avg-of-3"].percent == pytest.approx(33.3333, abs=1e-4)
    assert scores["avg-of-3"].tasks == 1
    # NeMo Gym's avg-of-3 counts the task of a single rollout with that one.
    assert scores["avg-of-up-to-3"].percent == pytest.approx(16.6667, abs=1e-4)
    assert scores["avg-of-up-to-3"].tasks == 2
    assert "avg-of-up-to-1" not in scores
    assert scores["pass@1"].interval is not None


def test_rewards_between_0_and_1_have_a_best_and_pass_from_the_threshold(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [[0.2, 0.8], [0.1, 0.5]])

    found = metrics(run, Options(success=0.5)).overall

    assert found.scores["best@2"].percent == pytest.approx(65.0)
    assert found.scores["avg-of-2"].percent == pytest.approx(40.0)
    assert found.scores["pass@1"].fraction == 0.5
    assert found.histogram == [(0.1, 0.1, 1), (0.2, 0.2, 1), (0.5, 0.5, 1), (0.8, 0.8, 1)]


def test_many_different_rewards_fall_into_ten_bins_that_hold_them_all(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [[number / 40 for number in range(41)]])

    histogram = metrics(run).overall.histogram

    assert len(histogram) == 10
    assert sum(count for _, _, count in histogram) == 41
    assert (histogram[0][0], histogram[-1][1]) == (0.0, 1.0)


def test_counts_add_up_and_failures_have_no_reward(tmp_path: Path) -> None:
    rollouts: list[Rollout] = [
        sum_rollout(1, 0, reply="2"),
        sum_rollout(1, 1, reply="2", attempts=3, reward=0.0),
        sum_rollout(2, 0, reply="4", status="truncated", truncation_reason="length"),
        sum_rollout(2, 1, reply="", status="failed", error_kind=FailureKind.TOOL_TIMEOUT),
        unplayed(3),
    ]

    found = metrics(stored_run(tmp_path / "run", rollouts)).overall

    assert (found.completed, found.truncated, found.failed, found.pending) == (2, 1, 2, 0)
    assert found.truncation == {"length": 1}
    assert found.failure_kinds == {"tool_timeout": 1, "policy_timeout": 1}
    assert found.reward.mean == pytest.approx(2 / 3)
    assert found.reward.coverage == 0.6
    assert (found.retried, found.retried_reward_difference) == (1, -1.0)
    assert found.turns is not None
    assert found.tokens is not None
    assert (found.turns.max, found.tokens.mean) == (1, 3.0)
    assert found.tasks == 3


def test_an_unfinished_run_counts_each_rollout_once_and_what_is_pending(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [[1, 0], [0, 0]], is_complete=False)
    again = [sum_rollout(1, 1, reply="", reward=1.0), unplayed(0, 0)]
    SegmentStore(run / "segments").write("c", again)

    found = metrics(run).overall

    assert found.completed == 4
    assert found.failed == 0
    assert found.reward.mean == 0.5


def test_tasks_in_any_order_of_files_come_out_whole(tmp_path: Path) -> None:
    rollouts = [sum_rollout(task, repeat, reply="") for repeat in range(3) for task in range(4)]
    for number, rollout in enumerate(rollouts):
        SegmentStore(tmp_path).write(f"s{number}", [rollout])

    found = list(groups(list(SegmentStore(tmp_path).files()), {}))

    assert [[fact.rollout_index for fact in group] for group in found] == [[0, 1, 2]] * 4
    assert [group[0].task_index for group in found] == [0, 1, 2, 3]


def test_environments_that_tell_answers_have_a_majority(tmp_path: Path) -> None:
    voting = tmp_path / "voting.py"
    voting.write_text(
        "from tests.arithmetic import Arithmetic\n"
        "class Voting(Arithmetic):\n"
        "    def answer(self, task, text):\n"
        "        return text or None\n"
    )
    replies = [["2", "2", "7", ""], ["", "", "", ""]]
    rollouts = [
        sum_rollout(task + 1, repeat, reply=reply, role="assistant")
        for task, group in enumerate(replies)
        for repeat, reply in enumerate(group)
    ]
    run = stored_run(
        tmp_path / "run", [_said(rollout) for rollout in rollouts], entrypoint=f"{voting}:Voting"
    )

    report = metrics(run)

    assert report.notes == []
    assert report.overall.scores["majority@4"].fraction == 0.5
    assert report.overall.scores["no_answer"].fraction == pytest.approx(5 / 8)
    assert report.environments["arithmetic"].scores["majority@1"].fraction == 0.5


def _said(rollout: Rollout) -> Rollout:
    items = json.loads(rollout.response)
    items[0]["content"][0]["type"] = "output_text"
    return dataclasses.replace(rollout, response=json.dumps(items))


def test_a_folder_of_shards_has_no_majority_and_says_why(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [[1, 0]])
    shards = (run / "rollouts").rename(tmp_path / "shards")

    report = metrics(shards)

    assert report.overall.reward.mean == 0.5
    assert "has no run.yaml" in report.notes[0]


def test_environments_are_told_apart_and_together(tmp_path: Path) -> None:
    rollouts = [
        dataclasses.replace(
            rollout, spec=dataclasses.replace(rollout.spec, environment=environment)
        )
        for task, environment in enumerate(["sums", "words", "sums", "words", "words"])
        for rollout in [sum_rollout(task, reply="", reward=float(environment == "sums"))]
    ]

    report = metrics(stored_run(tmp_path / "run", rollouts))

    assert {name: part.tasks for name, part in report.environments.items()} == {
        "sums": 2,
        "words": 3,
    }
    assert report.environments["sums"].reward.mean == 1.0
    assert report.environments["words"].scores["pass@1"].fraction == 0.0
    assert (report.overall.tasks, report.overall.reward.mean) == (5, 0.4)


def test_more_kinds_of_tasks_than_are_held_in_memory_change_nothing_but_the_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    rollouts = [
        dataclasses.replace(
            rollout, spec=dataclasses.replace(rollout.spec, environment="ab"[task % 2])
        )
        for task in range(60)
        # k = 4 is first met after the first tasks were put away.
        for repeat in range(1 + (task % 3 if task < 20 else 3))
        for rollout in [sum_rollout(task, repeat, reply="", reward=float(rng.random()))]
    ]
    run = stored_run(tmp_path / "run", rollouts)
    held = metrics(run)
    monkeypatch.setattr(task_values, "KINDS_AT_ONCE", 7)

    found = metrics(run)

    for one, other in [
        (found.overall, held.overall),
        *((found.environments[name], held.environments[name]) for name in ("a", "b")),
    ]:
        assert list(one.scores) == list(other.scores)
        for name, score in one.scores.items():
            before = other.scores[name]
            assert (score.tasks, score.task_coverage) == (before.tasks, before.task_coverage)
            assert score.fraction == pytest.approx(before.fraction, rel=1e-12)
            assert score.interval == pytest.approx(before.interval, abs=0.03)
        assert one.reward.interval == pytest.approx(other.reward.interval, abs=0.03)
        assert one.reward.mean == other.reward.mean
    assert found.overall.scores["avg-of-up-to-4"].tasks == 60
    assert metrics(run) == found


def test_two_runs_are_compared_on_the_tasks_they_share(tmp_path: Path) -> None:
    before = run_of(tmp_path / "a", [[0, 0], [0, 1], [1, 0], [0, 0], [1, 1]])
    after = run_of(tmp_path / "b", [[1, 1], [1, 1], [1, 1], [1, 1]])

    found = compare(before, after)

    assert (found.reward.tasks, found.only_a, found.only_b) == (4, 1, 0)
    assert (found.reward.before, found.reward.after) == (0.25, 1.0)
    assert (found.reward.raised, found.reward.lowered) == (4, 0)
    # All four differences are above 0: of 16 changes of signs, two are as far from 0.
    assert found.reward.p_value == pytest.approx(2 / 16)
    assert "not significant" in found.statement
    assert found.scores["pass@2"].difference == 0.5


def test_a_consistent_difference_is_significant_and_the_same_run_is_not(tmp_path: Path) -> None:
    before = run_of(tmp_path / "a", [[0, 0]] * 8)
    after = run_of(tmp_path / "b", [[1, 0]] * 8)

    found = compare(before, after)

    assert found.reward.p_value == pytest.approx(2 / 256)
    assert found.scores["pass@2"].interval == (pytest.approx(2 * 0.025 ** (1 / 8) - 1), 1.0)
    assert found.statement.startswith("B's mean reward is 0.5000 higher than A's on 8 tasks: signi")
    assert compare(before, before).reward.p_value == 1.0
    assert compare(before, before).statement.startswith("B's mean reward is A's on 8 tasks: not ")


def test_runs_without_a_common_task_are_refused(tmp_path: Path) -> None:
    first = stored_run(tmp_path / "a", [sum_rollout(1, reply="2")])
    second = stored_run(tmp_path / "b", [sum_rollout(2, reply="4")])

    with pytest.raises(ConfigError, match="no task in common"):
        compare(first, second)


def test_the_command_prints_both_forms_and_repeats_itself(tmp_path: Path, command: RunCli) -> None:
    run = run_of(tmp_path / "run", [[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]])

    code, out, err = command(run)

    assert (code, err) == (0, "")
    table = {line[:20].strip(): line.split() for line in out.splitlines() if line.strip()}
    assert table["percent [at 0.95]"][-3:] == ["k=1", "k=2", "k=4"]
    assert table["pass@k"] == ["pass@k", "50.00", "61.11", "66.67"]
    assert table["of tasks"] == ["of", "tasks", "3", "3", "3"]
    assert max(map(len, out.splitlines())) <= 100
    assert "(coverage 100.0% of rollouts)" in out
    assert command(run)[1] == out


def test_an_interval_stands_below_every_score_and_has_a_width_at_0_and_1(
    tmp_path: Path, command: RunCli
) -> None:
    never = run_of(tmp_path / "never", [[0]] * 64)
    always = run_of(tmp_path / "always", [[1]] * 64)

    for run, share, bounds in ((never, "0.00", "[0.0, 5.6]"), (always, "100.00", "[94.4, 100.0]")):
        lines = command(run)[1].splitlines()
        row = next(n for n, line in enumerate(lines) if line.split()[:1] == ["pass@k"])
        assert lines[row].endswith(f" {share}")
        assert lines[row + 1].strip() == bounds
        assert len(lines[row]) == len(lines[row + 1]), "one below the other"


def test_measures_of_fewer_tasks_say_of_how_many_they_are(tmp_path: Path, command: RunCli) -> None:
    run = run_of(tmp_path / "run", [[1, 0, 0], [0]])

    out = command(run, "--k", "1,3")[1]

    rows = [line.split() for line in out.splitlines()]
    assert ["of", "tasks", "2", "1"] in rows
    assert ["of", "tasks", "2"] in rows


def test_the_command_writes_the_scores_of_every_task(tmp_path: Path, command: RunCli) -> None:
    run = run_of(tmp_path / "run", [[1, 0], [0, 0]])

    code, out, _ = command(run, "--json", "--tasks", tmp_path / "tasks.jsonl", "--k", "2")

    assert code == 0
    assert list(json.loads(out)["overall"]["scores"]) == ["pass@2", "pass^2", "avg-of-2"]
    lines = [json.loads(line) for line in (tmp_path / "tasks.jsonl").read_text().splitlines()]
    assert [line["mean_reward"] for line in lines] == [0.5, 0.0]
    assert lines[0]["scores"] == {"pass@2": 1.0, "pass^2": 0.0, "best@2": 1.0, "avg-of-2": 0.5}
    assert not list(tmp_path.glob("*.unfinished"))


def test_the_command_compares(tmp_path: Path, command: RunCli) -> None:
    before = run_of(tmp_path / "a", [[0, 0]] * 8)
    after = run_of(tmp_path / "b", [[1, 0]] * 8)

    code, out, _ = command(before, after)

    assert code == 0
    assert out.startswith("B's mean reward is 0.5000 higher than A's on 8 tasks: significant")
    rows = [line.split() for line in out.splitlines()]
    row = rows.index(["A", "0.00", "0.00"])
    assert rows[row - 1] == ["pass@k"]
    assert rows[row - 2][-2:] == ["k=1", "k=2"]
    assert rows[row + 1] == ["B", "50.00", "100.00"]
    assert rows[row + 2] == ["B", "-", "A", "+50.00", "+100.00"]
    assert rows[row + 4] == ["p", "0.007812", "0.007812"]
    assert json.loads(command(before, after, "--json")[1])["reward"]["raised"] == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none"], "no such folder"),
        (["{run}", "--k", "two"], "write whole numbers"),
        (["{run}", "--k", "0"], "whole numbers from 1"),
        (["{run}", "--confidence", "95"], "write e.g. 0.95"),
        (["{run}", "--resamples", "1"], "take 100 or more"),
        (["{run}", "{run}", "--tasks", "x"], "--tasks is of one run"),
        (["{run}", "--tasks", "/proc/none/x"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_two(
    tmp_path: Path, command: RunCli, arguments: list[str], says: str
) -> None:
    run = run_of(tmp_path / "run", [[1]])

    code, out, err = command(*(text.format(run=run) for text in arguments))

    assert (code, out) == (2, "")
    assert err.startswith("gym-ray: ")
    assert says in err


def test_commands_of_the_metrics_page_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: RunCli
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for name in ("demo", "before", "after"):
        run_of(tmp_path / "runs" / name, [[1, 0], [0, 0]])
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"```bash\n(.*?)```", page, re.S)[0].splitlines()

    for line in lines:
        program, name, *arguments = line.split()
        assert (program, name) == ("gym-ray", "metrics")
        assert command(*arguments)[0] == 0

    assert len(lines) == 3
    assert len((tmp_path / "tasks.jsonl").read_text().splitlines()) == 2
