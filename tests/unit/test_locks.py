"""scripts/lock-*.txt, and that scripts/install.sh installs nothing else."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
LOCKS = sorted(path.name for path in SCRIPTS.glob("lock-*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def entries(lock: str) -> list[tuple[Requirement, list[str]]]:
    """A lock's packages with their hashes."""
    text = re.sub(r"(?m)^#.*\n", "", (SCRIPTS / lock).read_text()).replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        found.append((Requirement(requirement), hashes))
    return found


def required(extras: Iterable[str]) -> set[Requirement]:
    """What pyproject.toml asks for, extras named by extras included."""
    project = PROJECT["project"]
    waiting, seen, found = list(extras), set[str](), set[Requirement]()
    lines = list(project["dependencies"])
    while lines or waiting:
        if not lines:
            if (extra := waiting.pop()) in seen:
                continue
            seen.add(extra)
            lines = list(project["optional-dependencies"][extra])
            continue
        requirement = Requirement(lines.pop())
        if requirement.name == "gym-ray":
            waiting += requirement.extras
        else:
            found.add(requirement)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_whatever_is_locked_has_one_version_and_its_hashes(lock: str) -> None:
    for requirement, hashes in entries(lock):
        (version,) = requirement.specifier
        assert version.operator in ("==", "==="), requirement
        assert "*" not in version.version, requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), requirement


@pytest.mark.parametrize("engine", ["cpu", "vllm"])
def test_locks_have_what_pyproject_asks_for(engine: str) -> None:
    other = {"cpu": "vllm", "vllm": "cpu"}[engine]
    extras = PROJECT["project"]["optional-dependencies"].keys() - {other}
    locked: dict[str, list[Requirement]] = {}
    for requirement, _ in entries(f"lock-{engine}.txt"):
        locked.setdefault(canonicalize_name(requirement.name), []).append(requirement)

    for wanted in required(extras):
        versions = [
            next(iter(pin.specifier)).version
            for pin in locked.get(canonicalize_name(wanted.name), [])
        ]
        assert versions, f"scripts/lock-{engine}.txt has no {wanted}: run scripts/lock.sh"
        assert all(wanted.specifier.contains(version) for version in versions), (
            f"{wanted}, and scripts/lock-{engine}.txt has {versions}: run scripts/lock.sh"
        )


def test_build_backend_is_locked() -> None:
    locked = {pin.name: next(iter(pin.specifier)).version for pin, _ in entries("lock-build.txt")}

    for text in PROJECT["build-system"]["requires"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(locked[wanted.name]), wanted


def uv() -> str:
    """As scripts/setup.sh installed it, else the one on PATH."""
    own = ROOT / ".bootstrap" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    assert found, "run scripts/setup.sh"
    return found


class Project:
    """A folder with scripts/install.sh and locks of its own, and an index of wheels."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wheels = folder, folder / "wheels"
        (folder / "scripts").mkdir()
        self.wheels.mkdir()
        for name in ("install.sh", "overrides-cpu.txt", *LOCKS):
            shutil.copy(SCRIPTS / name, folder / "scripts" / name)
        environment = [sys.executable, "-m", "venv", "--without-pip", folder / "environment"]
        subprocess.run(environment, check=True)
        self.python = folder / "environment" / "bin" / "python"

    def wheel(self, name: str, *needs: str, text: str = "") -> str:
        """Publish version 1 of a package; its hash."""
        path = self.wheels / f"{name}-1-py3-none-any.whl"
        info = f"{name}-1.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
        metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(f"{name}.py", text)
            wheel.writestr(f"{info}/METADATA", metadata)
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def depends(self, *needs: str, **locked: str) -> None:
        """Write what the project needs, and the lock: packages with their hashes."""
        lines = [f'dependencies = ["{need}"]' for need in needs]
        text = "\n".join(["[project]", 'name = "gym-ray"', 'version = "1"', *lines])
        (self.folder / "pyproject.toml").write_text(text)
        lock = "".join(f"{name}==1 --hash=sha256:{digest}\n" for name, digest in locked.items())
        (self.folder / "scripts/lock-vllm.txt").write_text(lock)

    def install(self, what: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run scripts/install.sh with this index alone."""
        environment = os.environ | {
            "UV": uv(), "UV_NO_INDEX": "1", "UV_NO_CACHE": "1", "PIP_FIND_LINKS": str(self.wheels),
        }  # fmt: skip
        return subprocess.run(
            ["scripts/install.sh", what, self.python, *arguments],
            cwd=self.folder, env=environment, text=True, timeout=60,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def installed(self) -> set[str]:
        """What is in the environment."""
        return {path.stem.partition("-")[0] for path in self.folder.rglob("*.dist-info")}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_what_is_locked_is_installed_with_what_it_needs(project: Project) -> None:
    locked = {"above": project.wheel("above", "below"), "below": project.wheel("below")}
    project.depends("above>=1", **locked)

    done = project.install("packages", "vllm")

    assert done.returncode == 0, done.stdout
    assert project.installed() == {"above", "below"}


def test_another_file_of_a_locked_version_is_refused(project: Project) -> None:
    locked = {"above": project.wheel("above", "below"), "below": project.wheel("below")}
    project.wheel("below", text="stolen()")
    project.depends("above>=1", **locked)

    done = project.install("packages", "vllm")

    assert done.returncode != 0
    assert "Hash mismatch" in done.stdout
    assert project.installed() == set()


def test_a_package_that_is_not_locked_is_refused(project: Project) -> None:
    above = project.wheel("above", "below")
    project.wheel("below")
    project.depends("above>=1", above=above)

    done = project.install("packages", "vllm")

    assert done.returncode != 0
    assert "`below`" in done.stdout
    assert project.installed() == set()


def test_what_builds_gym_ray_is_refused_when_it_is_not_what_is_locked(project: Project) -> None:
    project.wheel("backend", text="stolen()")
    project.depends()
    with (project.folder / "pyproject.toml").open("a") as file:
        file.write('\n[build-system]\nrequires = ["backend"]\nbuild-backend = "backend"\n')

    done = project.install("gym-ray")

    assert done.returncode != 0
    assert "Hash" in done.stdout
    assert "`backend`" in done.stdout
