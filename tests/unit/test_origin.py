"""No code is run that a dataset names, unless this user wrote that or says so."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gym_ray import reverify
from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError
from gym_ray.metrics.comparison import compare
from gym_ray.metrics.metrics import metrics
from gym_ray.metrics.task_scores import Options
from gym_ray.store.run_directory import RunDirectory
from gym_ray.store.stored_config import StoredConfig
from gym_ray.store.stored_run import StoredRun
from tests.stored import arithmetic_config, stored_run, sum_rollout

EVIL = """
from pathlib import Path
Path(__file__).with_name("was-here").touch()
from tests.arithmetic import Arithmetic as E
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`home(name)`: be another user."""

    def be(name: str) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "homes" / name))

    be("author")
    return be


@pytest.fixture
def evil(tmp_path: Path, home: Callable[[str], None]) -> Path:
    """A run whose config names code in its own folder, by another user."""
    (tmp_path / "evil.py").write_text(EVIL)
    rollouts = [sum_rollout(n, reply=str(2 * n)) for n in range(2)]
    run = stored_run(tmp_path / "run", rollouts, entrypoint=f"{tmp_path}/evil.py:E")
    home("reader")
    return run


def test_a_run_from_elsewhere_is_measured_without_its_code(evil: Path) -> None:
    report = metrics(evil)

    assert report.overall.reward.mean == 1.0
    assert not (evil.parent / "was-here").exists()
    (note,) = report.notes
    assert str(evil / "run.yaml") in note
    assert "--trust-run" in note
    compare(evil, evil)
    assert not (evil.parent / "was-here").exists()


def test_a_run_from_elsewhere_is_reverified_by_ones_own_config_only(evil: Path) -> None:
    with pytest.raises(ConfigError, match=r"--trust-run .* --config"):
        reverify(evil, evil.parent / "new", overrides=["collect.max_attempts=1"])
    assert not (evil.parent / "was-here").exists()
    assert not (evil.parent / "new").exists()


def test_code_of_a_run_that_is_trusted_or_ones_own_is_loaded(
    evil: Path, home: Callable[[str], None]
) -> None:
    assert not metrics(evil, Options(trust_run=True)).notes
    assert (evil.parent / "was-here").exists()
    home("author")
    assert not metrics(evil).notes


def test_a_moved_run_is_still_ones_own_and_a_changed_one_is_not(
    tmp_path: Path, home: Callable[[str], None]
) -> None:
    run = stored_run(tmp_path / "run", [sum_rollout(1, reply="2")])
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    assert StoredConfig.read(moved).is_ours
    text = (moved / "run.yaml").read_text()
    for changed in (
        text.replace("arithmetic.py", "other.py"),
        text.replace("  id:", "  extra: 1\n  id:"),
        "".join(line for line in text.splitlines(True) if "origin:" not in line),
        text.replace("  origin: ", "  origin: 0"),
    ):
        assert changed != text
        (moved / "run.yaml").write_text(changed)
        assert not StoredConfig.read(moved).is_ours
        with pytest.raises(ConfigError, match="--trust-run"):
            StoredRun(moved).config.checked()


def test_going_on_with_a_run_from_elsewhere_does_not_take_over_where_its_code_is_found(
    tmp_path: Path, home: Callable[[str], None]
) -> None:
    run = stored_run(tmp_path / "run", [sum_rollout(1, reply="2")])
    text = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(
        text.replace(f"base_directory: {os.getcwd()}", f"base_directory: {run}")
    )
    config = load_config(arithmetic_config(run))
    directory = RunDirectory.open(config)
    directory.save_config(config)
    directory.close()
    assert StoredConfig.read(run).checked().base_directory == os.getcwd()


def test_one_key_is_made_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    program = "from gym_ray.store.origin import mark_of; print(mark_of('text'))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    marks = {process.communicate()[0] for process in started}
    assert len(marks) == 1
    (file,) = (tmp_path / ".cache" / "gym_ray").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_a_home_a_run_is_written_and_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/nowhere")
    run = stored_run(tmp_path / "run", [sum_rollout(1, reply="2")])
    assert not StoredConfig.read(run).is_ours
