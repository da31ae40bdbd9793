"""The Dockerfile, as far as a machine without containers can tell: lint, plan, installation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pathspec
import pytest

from gym_ray.serving import SERVE_ENVIRONMENT

ROOT = Path(__file__).parents[2]

#: The Dockerfile's instructions, continuation lines joined, comments gone.
INSTRUCTIONS = re.sub(
    r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
).split("\n")

TARGETS = {"cpu": "cpu", "gpu": "vllm"}


def stage(target: str) -> list[str]:
    """Instructions of a target, those of the stages it is built from included."""
    stages: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for instruction in INSTRUCTIONS:
        if found := re.fullmatch(r"FROM (\S+) AS (\S+)", instruction):
            parent, name = found.groups()
            stages[name] = (parent, [])
        elif instruction and name:
            stages[name][1].append(instruction)
    parent, own = stages[target]
    return [*(stage(parent) if parent in stages else []), *own]


def installs(target: str) -> dict[str, list[str]]:
    """The target's calls of scripts/install.sh: arguments of `uv`, `packages` and `gym-ray`."""
    prefix = "RUN scripts/install.sh "
    calls = [line.removeprefix(prefix).split() for line in stage(target) if line.startswith(prefix)]
    return {what: arguments for what, *arguments in calls}


def copy_build_context(target: str, folder: Path) -> Path:
    """What the target's COPY instructions find, as .dockerignore lets them, before its user."""
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".dockerignore").read_text().split("\n"))
    for line in stage(target):
        if not line.startswith("COPY "):
            continue
        *sources, destination = line.split()[1:]
        for source in sources:
            path = ROOT / source
            assert path.exists(), f"{line}: no {source}"
            assert not ignored.match_file(source), f"{line}: .dockerignore leaves {source} out"
            place = folder / destination
            if path.is_dir():
                shutil.copytree(path, place, symlinks=True, dirs_exist_ok=True)
            else:
                place = place / path.name if destination.endswith("/") else place
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, place)
    return folder


def install(context: Path, what: str, arguments: list[str], *options: str) -> str:
    """What an install line of the Dockerfile says here, with this Python for the image's.

    `options` are for each `uv pip install` that does not have the first of them.
    """
    with_options = context / "uv"
    with_options.write_text(
        f'#!/bin/sh\ncase " $* " in *" {options[0]} "*) exec {uv()} "$@" ;; esac\n'
        f'exec {uv()} "$@" {" ".join(options)}\n'
    )
    with_options.chmod(0o755)
    done = subprocess.run(
        [context / "scripts/install.sh", what, sys.executable, *arguments[1:]],
        cwd=context, text=True, timeout=500,
        env={**os.environ, "UV": str(with_options)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def uv() -> str:
    """As scripts/setup.sh installed it, else the one on PATH."""
    own = ROOT / ".bootstrap" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    assert found, "run scripts/setup.sh"
    return found


def test_dockerfile_has_nothing_to_complain_about() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"

    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", TARGETS)
def test_target_is_pinned_unprivileged_watched_and_set_up_for_serve(target: str) -> None:
    instructions = stage(target)
    (environment,) = [line for line in instructions if "RAY_SERVE" in line]
    calls = installs(target)

    base = r"^ARG BASE=\S+:\d+\.\d+\.\d+\S*\nFROM \$BASE AS base$"
    assert re.search(base, "\n".join(INSTRUCTIONS), re.M)
    assert list(calls) == ["uv", "packages", "gym-ray"]
    assert calls["packages"][:2] == ["/opt/venv/bin/python", TARGETS[target]]
    assert calls["gym-ray"] == ["/opt/venv/bin/python"]
    assert not any("pip install" in line for line in instructions)
    assert instructions.index("USER 1000") > instructions.index("WORKDIR /app")
    assert any("--uid 1000" in line for line in instructions)
    assert any(line.startswith("HEALTHCHECK") for line in instructions)
    for name, value in SERVE_ENVIRONMENT.items():
        assert f" {name}={value}" in environment


@pytest.mark.long("resolves and installs hundreds of packages, for which it asks the package index")
@pytest.mark.parametrize("target", TARGETS)
def test_packages_of_a_target_are_all_locked(target: str, tmp_path: Path) -> None:
    context = copy_build_context(target, tmp_path)

    said = install(context, "packages", installs(target)["packages"], "--dry-run")

    assert "error" not in said


@pytest.mark.long("resolves and installs hundreds of packages, for which it asks the package index")
def test_gym_ray_installs_from_what_is_copied_and_brings_its_environments(tmp_path: Path) -> None:
    context = copy_build_context("cpu", tmp_path / "context")
    site = tmp_path / "site"

    install(context, "gym-ray", installs("cpu")["gym-ray"], "--target", str(site))

    code = (
        "import gym_ray, importlib.metadata as metadata; from gym_ray.environments.math import *; "
        "print(gym_ray.__file__, metadata.version('gym-ray'))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    assert said.startswith(str(site))
