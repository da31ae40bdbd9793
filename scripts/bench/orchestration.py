"""What orchestration costs: rollouts per second and CPU per rollout, by process.

The scripted policy answers after 50 ms, so everything measured is ours and Ray's. Each size is
a collection of its own, on one Ray cluster that stays up or embedded; start-up is reported apart
from steady state, which is measured between the first and the last rollout made durable.

    python scripts/bench/orchestration.py --in-flight 64 256 1024 --rollouts 4000
    python scripts/bench/orchestration.py --cluster local ray --in-flight 256
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

import gym_ray
from gym_ray.config.load import load_config
from gym_ray.serving.application import Application
from gym_ray.serving.cluster import connect, disconnect
from gym_ray.telemetry.progress import Counts, Progress

ENVIRONMENT = '''
from gym_ray import Environment, Outcome


class Boxed(Environment):
    """Reward 1 when the reply holds the number 4; judged on the event loop."""

    async def verify(self, outcome: Outcome) -> float:
        return float("4" in outcome.text)
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--rollouts", type=int, default=4000)
    parser.add_argument("--cluster", nargs="+", choices=["local", "ray"], default=["ray"])
    parser.add_argument("--latency", type=float, default=0.05)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), arguments.rollouts, arguments.latency)
        for cluster in arguments.cluster:
            with contextlib.nullcontext() if cluster == "local" else application(config):
                for size in arguments.in_flight:
                    measure(Path(folder), {**config, "cluster": cluster}, size)


def write_config(folder: Path, rollouts: int, latency: float) -> dict[str, Any]:
    """A config, and the files it names."""
    (folder / "boxed.py").write_text(ENVIRONMENT)
    prompt = "What is two plus two? Put the answer into a box. " * 8
    with open(folder / "tasks.jsonl", "w") as file:
        for number in range(rollouts):
            row = {"responses_create_params": {"input": f"{number}: {prompt}"}}
            file.write(json.dumps(row) + "\n")
    return {
        "policy": {
            "engine": "scripted",
            "model": "scripted",
            "engine_args": {"latency_seconds": latency},
            "resources": {"num_cpus": 0.5},
        },
        "environments": {
            "boxed": {"entrypoint": f"{folder}/boxed.py:Boxed", "resources": {"num_cpus": 0.5}}
        },
        "collect": {"input": str(folder / "tasks.jsonl")},
    }


@contextlib.contextmanager
def application(config: dict[str, Any]) -> Iterator[None]:
    """The application of a config on Ray, while the context lasts."""
    checked = load_config(config)
    cluster = connect(checked)
    application = Application.deploy(checked, print)
    try:
        yield
    finally:
        application.close()
        disconnect(cluster)


def measure(folder: Path, config: dict[str, Any], size: int) -> None:
    """Collect with so many in flight, and print what it took."""
    sampler = Sampler()
    summary = gym_ray.collect(
        config,
        [
            f"collect.max_in_flight={size}",
            f"collect.output={folder}/run-{config['cluster']}-{size}",
        ],
    )
    sampler.stop()
    report(config["cluster"], size, summary, sampler)


class Sampler:
    """Samples CPU of every process of this run, and progress, twice a second."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int, dict[str, float]]] = []
        self._done = 0
        self.memory_bytes = 0
        self._stop = threading.Event()
        Progress.show = self._observe(Progress.show)  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _observe(self, show: Any) -> Any:
        def observed(progress: Progress, counts: Counts, **rest: Any) -> None:
            self._done = counts.finished + counts.failed
            show(progress, counts, **rest)

        return observed

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self.samples.append((time.monotonic(), self._done, cpu_seconds()))

    def stop(self) -> None:
        self.memory_bytes = own_memory()
        self._stop.set()
        self._thread.join()

    def steady(self) -> tuple[float, int, dict[str, float]]:
        """Seconds, rollouts and CPU seconds by process between first and last progress."""
        moving = [s for s in self.samples if 0 < s[1] < self.samples[-1][1]]
        first, last = moving[0], moving[-1]
        used = {name: last[2][name] - first[2].get(name, 0.0) for name in last[2]}
        return last[0] - first[0], last[1] - first[1], used


def cpu_seconds() -> dict[str, float]:
    """CPU seconds of this process and all below it, by what they are."""
    total: dict[str, float] = defaultdict(float)
    root = psutil.Process()
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
            total[label(process, root.pid)] += times.user + times.system
        except psutil.Error:
            continue
    return dict(total)


def own_memory() -> int:
    """Bytes that would be free without this process and all below it (unique set sizes)."""
    total = 0
    root = psutil.Process()
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().uss
        except psutil.Error:
            continue
    return total


def label(process: psutil.Process, driver: int) -> str:
    if process.pid == driver:
        return "driver (progress, Ray Data executor)"
    command = " ".join(process.cmdline())
    if "embedded_process" in command:
        return "policy, environment and stage"
    if match := re.search(r"ServeReplica:[^:]*:(\S+)", command):
        return f"replica {match.group(1)}"
    if match := re.search(r"ray::(\w+)", command):
        return "rollout stage" if match.group(1) == "MapWorker" else match.group(1)
    return next((name for name in ("raylet", "gcs_server") if name in command), "other")


def report(cluster: str, size: int, summary: gym_ray.RunSummary, sampler: Sampler) -> None:
    seconds, count, used = sampler.steady()
    total = sum(used.values())
    print(
        f"\n{cluster}, {size} in flight: {summary.completed} completed, "
        f"{summary.collecting_seconds:.1f} s collecting, the stages' start included"
    )
    print(
        f"  steady state: {count / seconds:.0f} rollouts/s, "
        f"{total / count * 1000:.2f} ms CPU per rollout, {sampler.memory_bytes / 2**20:.0f} MiB, "
        "all processes:"
    )
    for name, value in sorted(used.items(), key=lambda item: -item[1])[:8]:
        print(f"    {value / count * 1000:6.3f} ms  {name}")


if __name__ == "__main__":
    main()
