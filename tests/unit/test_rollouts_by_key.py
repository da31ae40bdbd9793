"""Rollouts by position, by ID and in ranges, and as the tables of other libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gym_ray import Rollouts, read_rollouts
from gym_ray.errors import ConfigError
from gym_ray.store.segments import SegmentStore
from tests.stored import stored_run, sum_rollout, unplayed

COUNT = 300


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More rollouts than are kept near one, the last of them in a segment that is not compacted."""
    folder = tmp_path_factory.mktemp("run") / "run"
    stored_run(folder, [sum_rollout(n, reply=str(n), metrics={"n": n}) for n in range(COUNT - 10)])
    late = [sum_rollout(n, reply=str(n), metrics={"n": n}) for n in range(COUNT - 10, COUNT)]
    SegmentStore(folder / "segments").write("late", late)
    return folder


@pytest.fixture(scope="module")
def rollouts(run: Path) -> Rollouts:
    return read_rollouts(run)


bounds = st.none() | st.integers(-COUNT - 5, COUNT + 5)


@given(bounds, bounds, st.none() | st.integers(-70, 70).filter(bool))
def test_ranges_are_those_of_a_list(
    rollouts: Rollouts, start: int | None, stop: int | None, step: int | None
) -> None:
    found = rollouts[start:stop:step]

    expected = list(range(COUNT))[start:stop:step]
    assert len(found) == len(expected)
    assert found.to_arrow(["task_index"])["task_index"].to_pylist() == expected
    if expected:
        assert found[-1].spec.task_index == expected[-1]


@given(st.lists(st.integers(-COUNT, COUNT - 1), max_size=5))
def test_positions_are_those_of_a_list(rollouts: Rollouts, positions: list[int]) -> None:
    for position in positions:
        rollout = rollouts[np.int64(position)]
        assert rollout.text == str(position % COUNT)
        assert rollout.token_ids.tolist() == [1, 2, position % COUNT]
        assert rollouts[rollout.spec.rollout_id].spec == rollout.spec


def test_a_key_that_fits_none_is_refused(rollouts: Rollouts, run: Path) -> None:
    for position in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match=f"there are {COUNT} rollouts, and none at {position}"):
            rollouts[position]
    with pytest.raises(KeyError, match="none of the 300 rollouts has the rollout_id 'nobody'"):
        rollouts["nobody"]
    with pytest.raises(TypeError):
        rollouts[1.5]  # type: ignore[call-overload]
    some = read_rollouts(run, columns=["reward"])
    with pytest.raises(ConfigError, match="a rollout needs all columns"):
        some[0]
    assert some[1:3].to_arrow().column_names == ["reward"]


def test_a_dataframe_has_the_rows_and_columns(rollouts: Rollouts) -> None:
    frame = rollouts.to_pandas()
    assert frame["task_index"].tolist() == list(range(COUNT))
    assert frame["metrics"][3] == {"n": 3.0}
    assert frame["token_ids"][3].tolist() == [1, 2, 3]
    assert rollouts[:2].to_pandas(["reward"]).columns.tolist() == ["reward"]

    table = rollouts.to_polars()
    assert table["task_index"].to_list() == list(range(COUNT))
    assert table["metrics"][3] == {"n": 3.0}
    assert rollouts[:2].to_polars(["reward"]).columns == ["reward"]


def test_the_task_whose_rewards_differ_most_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = {1: ["no", "no"], 2: ["4", "no"], 3: ["6", "6"]}
    run = stored_run(
        tmp_path / "run",
        [
            unplayed(0),
            *(
                sum_rollout(task, repeat, reply=reply)
                for task, given in replies.items()
                for repeat, reply in enumerate(given)
            ),
        ],
    )
    rollouts = read_rollouts(run)

    def shown(rollouts: Rollouts) -> str:
        rollouts.show(width=80)
        return capsys.readouterr().out

    assert shown(rollouts).startswith("Task 2 of arithmetic: 2 rollouts, reward 0 to 1, mean 0.5")
    assert shown(rollouts[5:]).startswith("Task 3 of arithmetic: 2 rollouts, reward 1\n")
    assert shown(rollouts[:1]).startswith("Task 0 of arithmetic: 1 rollout, 1 failed\n")
    assert shown(rollouts[:2]).startswith("Task 1 of arithmetic: 1 rollout, reward 0\n")
    assert shown(rollouts[:0]) == "no rollouts\n"


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_library_that_is_not_installed_is_named(run: Path, library: str) -> None:
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Absent())
import gym_ray
gym_ray.read_rollouts({str(run)!r}).to_{library}()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert f"ImportError: to_{library}() needs {library}, which is not installed: pip install " \
        f"{library}" in done.stderr  # fmt: skip
