"""What scripts/prerequisites.sh says of machines that lack something."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "prerequisites.sh"

#: An interpreter with a version, which finds what is in the folder `has` beside it.
PYTHON = """#!/bin/sh
has="$(dirname "$0")/has"
case "$2" in
  *version_info*) [ -e "$has/version" ] ;;
  *ensurepip*) [ -e "$has/venv" ] ;;
  *libnuma*) [ -e "$has/libnuma" ] ;;
  *Python.h*) [ -e "$has/headers" ] ;;
  *) exit 9 ;;
esac
"""

DEMO = {"version", "venv", "libnuma"}
TESTS = {*DEMO, "headers", "cc", "c++", "curl", "bwrap"}

Look = Callable[..., tuple[int, str]]


def program(path: Path, text: str = "#!/bin/sh\n") -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Ask the script about a machine that has some things; its exit code and what it says."""

    def look(
        use: str,
        has: set[str],
        *,
        engine: str = "cpu",
        manager: str = "apt-get",
        python: str = "python3",
        user: int = 1000,
        **environment: str,
    ) -> tuple[int, str]:
        bin = tmp_path / "bin"
        (bin / "has").mkdir(parents=True)
        for tool in ("bash", "awk", "tr", "sed", "dirname"):
            (bin / tool).symlink_to(shutil.which(tool) or "")
        program(bin / "uname", "#!/bin/sh\necho Linux x86_64\n")
        program(bin / "id", f"#!/bin/sh\necho {user}\n")
        program(bin / "apt-cache", "#!/bin/sh\n[ $2 = python3.12 ]\n")
        program(bin / manager, f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/called\n')
        if python:
            program(bin / python, PYTHON)
        for thing in has:
            program((bin if thing in {"cc", "c++", "curl", "bwrap"} else bin / "has") / thing)
        done = subprocess.run(
            [bin / "bash", SCRIPT, use, engine],
            env={"PATH": str(bin), **environment},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.stdout == ""
        return done.returncode, done.stderr

    return look


@pytest.mark.parametrize(("use", "has"), [("demo", DEMO), ("tests", TESTS)])
def test_a_machine_with_everything_is_not_spoken_of(look: Look, use: str, has: set[str]) -> None:
    assert look(use, has) == (0, "")


def test_all_that_is_missing_is_said_at_once_with_one_line(look: Look) -> None:
    code, said = look("tests", {"version", "cc", "c++"})

    assert code == 1
    assert re.findall("venv and|libnuma.so.1|Python.h|curl,|bwrap,", said) == [
        "venv and", "libnuma.so.1", "Python.h", "curl,", "bwrap,"
    ]  # fmt: skip
    assert said.splitlines()[-1] == (
        "  sudo apt-get update && sudo apt-get install -y "
        "python3-venv libnuma1 python3-dev curl bubblewrap"
    )


def test_a_demo_without_a_gpu_needs_no_compiler_and_one_with_a_gpu_no_libnuma(look: Look) -> None:
    _, said = look("demo", {"version", "venv"}, engine="vllm")

    assert said.endswith("apt-get install -y gcc g++ python3-dev\n")


def test_root_needs_no_sudo_and_only_ci_has_it_installed(look: Look, tmp_path: Path) -> None:
    _, said = look("demo", {"version", "venv"}, user=0)

    assert said.endswith("\n  apt-get update && apt-get install -y libnuma1\n")
    assert not (tmp_path / "called").exists()


def test_in_ci_root_installs_and_looks_again(look: Look, tmp_path: Path) -> None:
    code, said = look("demo", {"version", "venv"}, user=0, CI="true")

    calls = (tmp_path / "called").read_text().splitlines()
    assert [call.split("/")[-1] for call in calls] == [
        "apt-get update", "apt-get install -y libnuma1"
    ]  # fmt: skip
    # The apt-get of this test brings nothing, which is noticed.
    assert code == 1
    assert "libnuma.so.1, which vLLM loads" in said


def test_packages_are_those_of_the_interpreter(look: Look) -> None:
    _, said = look("demo", {"version", "libnuma"}, python="python3.12")

    assert said.endswith("apt-get install -y python3.12-venv\n")


def test_a_python_of_another_version_is_no_python(look: Look) -> None:
    _, said = look("demo", {"venv", "libnuma"})

    assert "Python 3.11, 3.12 or 3.13" in said
    assert said.endswith("apt-get install -y python3.12 python3.12-venv libnuma1\n")


def test_without_any_python_debians_own_is_asked_for(look: Look) -> None:
    _, said = look("demo", set(), python="")

    assert said.endswith("apt-get install -y python3 python3-venv libnuma1\n")


def test_fedora_has_its_own_names(look: Look) -> None:
    _, said = look("tests", DEMO, manager="dnf")

    assert said.endswith("\n  sudo dnf install -y gcc gcc-c++ python3-devel curl bubblewrap\n")


def test_where_no_package_manager_is_known_the_things_are_named(look: Look) -> None:
    code, said = look("demo", {"version", "venv"}, manager="pacman")

    assert (code, said.splitlines()) == (
        1,
        ["gym-ray needs, and this machine does not have:", "  libnuma.so.1, which vLLM loads"],
    )


def test_readme_names_what_is_looked_for() -> None:
    lines = re.findall(r"^sudo apt-get install -y (.*)$", (ROOT / "README.md").read_text(), re.M)
    demo, tests = (set(line.split()) for line in lines)
    rows = [
        [cell.strip() for cell in row.split("|")]
        for row in re.findall(r"^\w+ +\|.*$", SCRIPT.read_text(), re.M)
    ]

    def named(*where: str) -> set[str]:
        return {
            package
            for row in rows
            if set(row[1].split()) & {*where}
            for package in row[2].replace("PYTHON", "python3").split()
        }

    assert demo == named("always", "cpu") | {"git"}
    assert tests == named("tests")
