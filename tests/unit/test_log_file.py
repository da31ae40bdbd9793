"""What a command said and why it ended is in a file, beside the run where there is one."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gym_ray.config.secret_values import covered_argument
from gym_ray.errors import GymRayError
from gym_ray.store.log_file import KEPT_BYTES, MOST_BYTES, LogFile, log_of, noted_log
from gym_ray.store.places import open_path

Write = Callable[..., Path]
RunCli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
policy: {{engine: scripted}}
environments: {{math: {{}}}}
collect: {{input: {tmp_path}/tasks.jsonl, output: {tmp_path}/run, max_failed_share: 1}}
"""
    )
    return path


def test_what_commands_on_a_run_said_is_beside_it_even_if_they_were_quiet(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    write_lines(["{broken"])
    code, out, err = gym_ray("collect", config, "--quiet")
    assert (code, err) == (0, "")

    log = config.parent / "run" / "log.txt"
    text = log.read_text()
    assert f"$ gym-ray collect {config} --quiet  (gym-ray " in text
    assert "1 rollouts to collect into" in text
    assert all(line in text for line in out.splitlines())
    assert "Traceback" not in text
    moment = time.strptime(text[:19], "%Y-%m-%d %H:%M:%S")
    assert moment.tm_year >= 2026

    assert gym_ray("collect", config, "serve.port=1", "--quiet")[0] == 0
    assert log.read_text().startswith(text)
    assert "serve.port=1" in log.read_text().removeprefix(text)


def test_every_error_after_the_run_was_opened_tells_where_its_log_is(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    write_lines(["{broken"])
    log = config.parent / "run" / "log.txt"
    assert gym_ray("collect", config)[0] == 0
    code, _, err = gym_ray("collect", config, "collect.max_failed_share=0")
    assert (code, err.splitlines()[-1]) == (3, f"gym-ray: log: {log}")

    manifest = config.parent / "run" / "manifest.parquet"
    manifest.write_bytes(manifest.read_bytes()[:-100])
    before = len(log.read_text())
    code, _, err = gym_ray("collect", config)
    assert (code, err.splitlines()[-1]) == (2, f"gym-ray: log: {log}")
    assert "Traceback" in log.read_text()[before:]
    assert "FileTorn" in log.read_text()[before:]

    code, _, err = gym_ray("collect", config, "--debug")
    assert "FileTorn" in err
    assert gym_ray("--debug", "collect", config)[2] == err


def test_an_error_before_a_run_was_begun_leaves_no_log_and_names_none(
    gym_ray: RunCli, config: Path, write_lines: Write, tmp_path: Path
) -> None:
    write_lines([""])
    code, _, err = gym_ray("collect", config)

    assert (code, "holds no task rows" in err) == (2, True)
    assert "log: " not in err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists(), "of what is wrong with a config all is said"


def test_a_log_that_cannot_be_written_keeps_no_command_from_its_work(
    gym_ray: RunCli, config: Path, write_lines: Write
) -> None:
    write_lines(["{broken"])
    assert gym_ray("collect", config, "--quiet")[0] == 0
    log = config.parent / "run" / "log.txt"
    log.unlink()
    log.mkdir()

    assert gym_ray("collect", config, "--quiet")[0] == 0


def test_a_log_is_bounded_and_keeps_its_end_while_others_write_to_it(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with LogFile(path) as log, path.open("ab", buffering=0) as other:
        other.write(b"first\n" + b"a line of another process\n" * (MOST_BYTES // 26))
        assert path.stat().st_size > MOST_BYTES
        log.write("last")
        assert path.stat().st_size < KEPT_BYTES + 200
        other.write(b"and on\n")

        text = path.read_text()
    assert "first" not in text
    assert "\0" not in text, "no hole where the beginning was"
    assert text.startswith("(the beginning is forgotten)\na line of another process\n")
    assert text.endswith(" last\nand on\n")


def test_a_log_that_was_taken_away_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"

    def broken() -> None:
        with LogFile(path) as log:
            path.unlink()
            log.write("more")
            raise GymRayError("broken")

    with pytest.raises(GymRayError) as caught:
        broken()
    assert not path.exists()
    assert noted_log(caught.value) is None


@pytest.mark.parametrize(
    ("argument", "covered"),
    [
        ("policy.engine_args.api_key=opaque", "policy.engine_args.api_key=***"),
        ("+judge_api_key=opaque", "+judge_api_key=***"),
        ("environments.e.params={password: opaque}", "environments.e.params=***"),
        ("policy.engine_args.url=http://me:opaque@host/v1", "policy.engine_args.url=***"),
        ("sk-0123456789abcdef0123", "***"),
        ("policy.engine_args.api_key_env=A_KEY", None),
        ("policy.engine_args.api_key=${oc.env:A_KEY}", None),
        ("collect.num_repeats=4", None),
        ("environments.e.params={a: [", None),
        ("deployments/laptop-cpu.yaml", None),
    ],
)
def test_no_secret_of_a_command_line_is_logged(argument: str, covered: str | None) -> None:
    assert covered_argument(argument) == (argument if covered is None else covered)


def test_what_an_environment_variable_holds_is_logged_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "opaque-word")

    def broken() -> None:
        with LogFile(tmp_path / "log.txt") as log:
            log.write("it is opaque-word")
            raise GymRayError("opaque-word is no number")

    with pytest.raises(GymRayError):
        broken()
    text = (tmp_path / "log.txt").read_text()
    assert "opaque-word" not in text
    assert "it is ***" in text
    assert "GymRayError: *** is no number" in text


def test_the_log_of_a_run_elsewhere_is_in_the_cache_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here: Any = log_of(tmp_path / "run")
    assert here == tmp_path / "run" / "log.txt"

    logs = [log_of(open_path(f"memory://bucket/runs/{number}/demo")) for number in range(60)]
    assert len(set(logs)) == 60
    for number, path in enumerate(logs):
        with LogFile(path):
            os.utime(path, (number, number))
    left = sorted(path for path in logs if path.exists())
    assert left == sorted(logs[10:])
