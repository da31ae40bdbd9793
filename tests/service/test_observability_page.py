"""The commands of docs/observability.md, with a scripted policy instead of a model."""

import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from gym_ray.collection.summary import RunSummary
from tests.cluster import SPANS_PORT, scripted_config, sums, write_rows

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()


def commands(program: str) -> list[list[str]]:
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
        for line in block.splitlines()
    ]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{program} ")]


@pytest.mark.long(
    "four commands, each a process that imports Ray and a tracker; the metrics themselves are in "
    "test_observability.py, the trackers in tests/unit/test_trackers.py"
)
@pytest.mark.timeout(300)
def test_every_command_of_the_page_does_what_it_says(
    cluster: str, requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = scripted_config(
        tmp_path, write_rows(tmp_path / "tasks.jsonl", sums(8, tmp_path)), requests
    )
    Path("deployments").mkdir()
    Path("deployments/laptop-cpu.yaml").write_text(yaml.safe_dump(config))
    environment = {
        **os.environ,
        "RAY_ADDRESS": cluster,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{SPANS_PORT}",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "WANDB_MODE": "offline",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=environment, check=True, timeout=300, capture_output=True, text=True,
        )  # fmt: skip

    (address,) = commands("python")
    url = run(*address).stdout.split()[-1]
    assert "ray_" in urllib.request.urlopen(url, timeout=10).read().decode()
    collects = commands("gym-ray")
    assert len(collects) == 3
    for number, arguments in enumerate(collects):
        output = tmp_path / "runs" / str(number)
        said = run("-m", "gym_ray", *arguments, f"collect.output={output}").stderr
        assert RunSummary.read(output / "summary.json").completed == 8
        assert "WARNING" not in said
    assert (output / "tensorboard").is_dir()
    assert list((output / "wandb").glob("offline-run-*"))
    assert list((tmp_path / "mlruns").rglob("reward_mean"))


def test_the_page_names_every_metric() -> None:
    from gym_ray.telemetry.metrics import METRICS

    shown = set(re.findall(r"`(ray_gym_ray_\w+)`", PAGE))
    assert shown == {
        name.removesuffix("_bucket") if metric.kind == "histogram" else name
        for metric in METRICS
        for name in metric.exported[:1]
    }
