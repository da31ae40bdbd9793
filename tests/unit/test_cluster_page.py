"""docs/cluster.md: its arithmetic, and that what its commands name is there."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
from pathlib import Path

from tests.cluster import until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()


def test_arithmetic_of_the_page_gives_the_numbers_of_its_table() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(block, {})

    lines = printed.getvalue().splitlines()
    assert len(lines) == 3
    for line in lines:
        model, numbers = line.split(" ", 1)
        cells = [f"{int(number):,}" for number in re.findall(r"\d+", numbers)]
        assert re.search(rf"\| {model} \| \d+ \| {' . '.join(map(re.escape, cells))} \|", PAGE)


def test_every_file_the_page_names_is_there_and_every_deployment_is_named() -> None:
    named = set(re.findall(r"(?:deployments|scripts)/[\w./-]+\w", PAGE))
    table = set(re.findall(r"`([\w/-]+\.(?:yaml|sh))`", PAGE.split("Three things")[0]))
    folder = ROOT / "deployments"
    deployments = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix in (".yaml", ".sh")
    }

    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    assert table == deployments


def stub(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "$CALLS"\n{script}\n')
    path.chmod(0o755)


def start_slurm_script(folder: Path, *, nodes: int, collect: str) -> subprocess.Popen[bytes]:
    """The Slurm script on made-up nodes; the commands it calls are noted in `calls`."""
    bin_folder = folder / "venv" / "bin"
    bin_folder.mkdir(parents=True)
    stub(bin_folder, "scontrol", "echo node-1; echo node-2")
    stub(bin_folder, "srun", 'if [[ "$*" == *hostname* ]]; then echo "10.0.0.1"; fi')
    stub(bin_folder, "ray", "")
    stub(bin_folder, "python", collect)
    return subprocess.Popen(
        [ROOT / "deployments" / "slurm.sh", "config.yaml", "collect.output=/shared/runs/x"],
        cwd=folder,
        env={
            **os.environ, "VENV": str(bin_folder.parent), "CALLS": str(folder / "calls"),
            "SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "node-[1-2]",
            "SLURM_JOB_NUM_NODES": str(nodes),
        },
    )  # fmt: skip


def called(folder: Path, part: str) -> bool:
    calls = folder / "calls"
    return calls.exists() and part in calls.read_text()


def test_slurm_job_starts_ray_on_its_nodes_and_collects(tmp_path: Path) -> None:
    job = start_slurm_script(tmp_path, nodes=2, collect="exit 3")

    assert job.wait(60) == 3
    # Commands in the background may be noted a little later.
    for part in (
        "--nodelist=node-1 ray start --head --block",
        "--exclude=node-1 ray start --block --address=10.0.0.1:24567",
        "python -m gym_ray collect config.yaml collect.output=/shared/runs/x",
    ):
        until(lambda part=part: called(tmp_path, part), 30, part)  # type: ignore[misc]


def test_slurm_job_passes_its_warning_on_and_waits_for_the_drain(tmp_path: Path) -> None:
    drains = """
trap 'echo drained >> "$CALLS"; exit 7' TERM
echo collecting >> "$CALLS"
while true; do read -r -t 0.1 < <(:) || true; done
"""
    job = start_slurm_script(tmp_path, nodes=1, collect=drains)
    until(lambda: called(tmp_path, "collecting"), 30, "it collects")

    job.terminate()

    assert job.wait(60) == 7
    assert called(tmp_path, "drained")
    assert not called(tmp_path, "--exclude")
