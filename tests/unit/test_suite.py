"""What scripts/test.sh says at its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import suite
from tests.suite import PARTS, Long, Result, long_tests, read_results, report

ROOT = Path(__file__).parents[2]

TESTS = """
import pytest

def test_good(): assert True

def test_bad(): assert False

def test_absent(): pytest.skip("no such machine")

@pytest.fixture
def broken(): raise RuntimeError

def test_broken(broken): pass
"""


def collected(folder: Path, text: str, *before: str) -> subprocess.CompletedProcess[str]:
    """pytest's word on a file of tests below the root's conftest.py; `before` starts pytest."""
    (folder / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest"]
    config = ["-c", ROOT / "pyproject.toml", "--rootdir", folder, "-p", "no:cacheprovider"]
    return subprocess.run(
        [*before, *command, *config, folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_results_are_those_of_pytests_file(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    file = tmp_path / "results.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={file}", "--rootdir", tmp_path]
    subprocess.run([*command, "-p", "no:cacheprovider", tmp_path], cwd=tmp_path, check=False)

    result = Result(PARTS["unit"])
    read_results(file, result)

    assert (result.passed, result.failed, result.skipped) == (1, 2, 1)
    assert result.unchecked == ["test_it.py::test_absent: no such machine"]
    assert sorted(name for _, name in result.durations) == [
        f"test_it.py::test_{name}" for name in ("absent", "bad", "broken", "good")
    ]


@pytest.mark.parametrize(
    ("seconds", "failed", "passes", "says"),
    [
        (60, 0, True, "tests: 7 passed, 0 failed"),
        (1000, 0, False, "unit took 16.7 minutes, its budget is"),
        (60, 1, False, "FAILED: unit"),
    ],
)
def test_a_part_that_fails_or_is_late_fails_the_run(
    seconds: float,
    failed: int,
    passes: bool,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suite, "PATIENCE", 1.0)
    durations = [(float(n), f"test_{n}") for n in range(suite.SLOWEST + 1)]
    unit = Result(PARTS["unit"], not failed, seconds, 7, failed, 0, durations, ["no bubblewrap"])

    assert report([unit], everything=False, install_seconds=240) == passes

    said = capsys.readouterr().out
    assert says in said
    assert "- no bubblewrap" in said
    assert "10.0 s  test_10" in said
    assert "test_0" not in said
    assert "the installation before 4.0" in said
    assert said.splitlines()[-1] == f"tests: 7 passed, {failed} failed"


def test_a_word_that_is_neither_a_part_nor_a_test_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert suite.main(["0", "enigne"]) == 2
    assert suite.main(["0", "all", "tests/unit"]) == 2
    assert "no part and no test named enigne; parts: check unit" in capsys.readouterr().out


def test_reasons_of_long_tests_are_found_in_decorators_files_and_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    one, other = tmp_path / "tests" / "test_one.py", tmp_path / "tests" / "test_other.py"
    one.write_text("pytestmark = [pytest.mark.long('It trains.')]\ndef test_a(): pass\n")
    other.write_text(
        "@pytest.mark.parametrize('x', [1, pytest.param(2, marks=pytest.mark.long('It waits.'))])\n"
        "def test_b(x): pass\n@pytest.mark.long('It '\n 'builds.')\nasync def test_c(): pass\n"
    )
    monkeypatch.setattr(suite, "ROOT", tmp_path)

    assert long_tests() == [
        Long("tests/test_one.py", "", "It trains."),
        Long("tests/test_other.py", "test_b", "It waits."),
        Long("tests/test_other.py", "test_c", "It builds."),
    ]


@pytest.mark.parametrize(
    ("markers", "says"),
    [
        ("@pytest.mark.long", "say why"),
        ("@pytest.mark.long(' ')", "say why"),
        ("@pytest.mark.timeout(600)", "mark it long as well"),
        ("@pytest.mark.long('It trains.')\n@pytest.mark.timeout(600)", "1 passed"),
        ("@pytest.mark.timeout(10)", "1 passed"),
    ],
)
def test_what_is_long_says_why(tmp_path: Path, markers: str, says: str) -> None:
    done = collected(tmp_path, f"import pytest\n\n{markers}\ndef test_it(): pass\n")
    assert says in done.stdout + done.stderr


def test_a_suite_in_a_shells_background_can_be_interrupted_like_any_other(tmp_path: Path) -> None:
    test = "import signal\ndef test_it(): signal.raise_signal(signal.SIGINT)\n"

    done = collected(tmp_path, test, "bash", "-c", "trap '' INT; exec \"$@\"", "bash")

    assert "KeyboardInterrupt" in done.stdout + done.stderr
