"""docs/cluster.md: its arithmetic, and that what its commands name is there."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
from pathlib import Path

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


def run_slurm_script(tmp_path: Path, *, nodes: int, collect: str) -> tuple[int, list[str]]:
    """The Slurm script on made-up nodes: its exit code, and the commands it called."""
    bin_folder = tmp_path / "venv" / "bin"
    bin_folder.mkdir(parents=True)
    stub(bin_folder, "scontrol", "echo node-1; echo node-2")
    stub(bin_folder, "srun", 'if [[ "$*" == *hostname* ]]; then echo "10.0.0.1"; fi')
    stub(bin_folder, "ray", "")
    stub(bin_folder, "python", collect)
    calls = tmp_path / "calls"
    done = subprocess.run(
        [ROOT / "deployments" / "slurm.sh", "config.yaml", "collect.output=/shared/runs/x"],
        cwd=tmp_path, timeout=60, check=False,
        env={
            **os.environ, "VENV": str(bin_folder.parent), "CALLS": str(calls),
            "SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "node-[1-2]",
            "SLURM_JOB_NUM_NODES": str(nodes),
        },
    )  # fmt: skip
    return done.returncode, calls.read_text().splitlines()


def test_slurm_job_starts_ray_on_its_nodes_and_collects(tmp_path: Path) -> None:
    code, calls = run_slurm_script(tmp_path, nodes=2, collect="exit 3")
    starts = [call for call in calls if "ray start" in call]

    assert code == 3
    assert any("--nodelist=node-1 ray start --head --block" in call for call in starts)
    assert any("--exclude=node-1 ray start --block --address=10.0.0.1:24567" in s for s in starts)
    assert "python -m gym_ray collect config.yaml collect.output=/shared/runs/x" in calls


def test_slurm_job_passes_its_warning_on_and_waits_for_the_drain(tmp_path: Path) -> None:
    drains = 'trap "echo drained >> $CALLS; exit 7" TERM; kill -TERM $PPID; sleep 30 & wait $!'

    code, calls = run_slurm_script(tmp_path, nodes=1, collect=drains)

    assert code == 7
    assert "drained" in calls
    assert not any("--exclude" in call for call in calls)
