"""Weights replaced under a running service: `gym-ray serve` with two replicas of the scripted
policy, whose logprobs tell the version they were made under.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import gym_ray
from gym_ray.config.load import load_config
from gym_ray.policies.scripted import scripted_logprobs
from gym_ray.policies.weights import WeightsUpdate
from gym_ray.rollout import Rollout
from gym_ray.serving.cluster import connect, disconnect
from gym_ray.serving.weights_record import WeightsRecord, WeightsStore
from tests.applications import ADMIN_KEY, KEY, Service
from tests.brittle import once
from tests.cluster import (
    replica_processes,
    scripted_config,
    serve_port,
    sums,
    until,
    write_rows,
)
from tests.service.test_serve import post

pytestmark = [
    pytest.mark.long(
        "a service of two policy replicas of its own, and updates for minutes; an update of a "
        "running service is in test_serve.py, what a replica and the gateway do with one in "
        "tests/unit/test_live_weights.py and tests/gateway/test_weights.py"
    ),
    pytest.mark.timeout(300),
]

UPDATES = 100
ROWS_PER_CALL = 24

#: How much a policy replica may grow over 80 updates under load.
GROWTH_BYTES = 24 * 1024**2

WriteWeights = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def config(cluster: str, folder: Path) -> dict[str, Any]:
    rows = write_rows(folder / "tasks.jsonl", sums(40, folder))
    config = scripted_config(folder, rows, folder / "requests")
    config["policy"]["engine_args"] |= {"latency_seconds": [0.05, 0.4]}
    config["policy"]["autoscaling"] = {"min_replicas": 2, "max_replicas": 2}
    config["serve"] = {"port": serve_port(), "output": str(folder / "served")}
    return config


@pytest.fixture(scope="module")
def url(cluster: str, service: Service, config: dict[str, Any], folder: Path) -> Iterator[str]:
    service.stop()
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "gym_ray", "serve", str(path)],
        env={
            **os.environ,
            "RAY_ADDRESS": cluster,
            "GYM_RAY_API_KEY": KEY,
            "GYM_RAY_ADMIN_KEY": ADMIN_KEY,
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    reader.start()
    until(lambda: any("ready at" in line for line in lines), 240, f"ready: {lines}")
    assert not any(ADMIN_KEY in line for line in lines)
    yield next(line for line in lines if "ready at" in line).split()[2].rstrip(";")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 0
    reader.join(timeout=10)


@pytest.fixture(scope="module")
def write_weights(folder: Path) -> WriteWeights:
    """Write weights of the scripted policy into a folder of their own."""
    number = itertools.count()

    def write(reply: str = "tests.replies:right_sum", seed: int = 0) -> str:
        directory = folder / f"weights-{next(number)}"
        directory.mkdir()
        (directory / "script.json").write_text(json.dumps({"reply": reply, "seed": seed}))
        return str(directory)

    return write


@pytest.fixture(scope="module")
def next_version() -> Callable[[], int]:
    return itertools.count(1).__next__


def update(url: str, version: int, source: Any, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"version": version, "source": source, **fields}).encode()
    return post(f"{url}/weights", body, key=ADMIN_KEY, timeout=120)


def weights(url: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/weights", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        report: dict[str, Any] = json.loads(answer.read())
        return report


def versions(url: str) -> list[int]:
    return [replica["version"] for replica in weights(url)["replicas"]]


def require_own_logprobs(rollout: Rollout, seeds: dict[int, int]) -> set[int]:
    """Every token's logprob is that of the version its span names; returns the versions."""
    seen = set()
    for turn in rollout.turns:
        generated = slice(turn.prompt_length, turn.prompt_length + turn.generation_length)
        tokens, logprobs = rollout.token_ids[generated], rollout.logprobs[generated]
        assert [span.start for span in turn.version_spans] == [
            0, *(span.end for span in turn.version_spans[:-1])
        ]  # fmt: skip
        assert turn.version_spans[-1].end == turn.generation_length
        for span in turn.version_spans:
            seen.add(span.version)
            own = scripted_logprobs(tokens, seed=seeds[span.version], version=span.version)
            np.testing.assert_array_equal(
                logprobs[span.start : span.end], own[span.start : span.end]
            )
    return seen


def test_an_update_is_on_every_replica_when_it_is_answered(
    url: str, write_weights: WriteWeights, next_version: Callable[[], int]
) -> None:
    version, source = next_version(), write_weights(seed=5)

    status, report = update(url, version, source)

    assert (status, report["changed"]) == (200, True)
    assert (report["version"], report["origin"]) == (version, source)
    assert [replica["version"] for replica in report["replicas"]] == [version] * 2
    assert len({replica["loaded"] for replica in report["replicas"]}) == 1
    assert {replica["fingerprint"] for replica in report["replicas"]} == {report["fingerprint"]}
    assert weights(url)["replicas"] == report["replicas"]


def test_the_same_update_again_does_nothing_and_others_that_do_not_count_up_are_refused(
    url: str, write_weights: WriteWeights, next_version: Callable[[], int]
) -> None:
    next_version()
    version, source, other = next_version(), write_weights(), write_weights()
    assert update(url, version, source)[0] == 200
    before = weights(url)

    assert update(url, version, source) == (200, before)
    for wrong in ((version, other), (version - 1, other), (version - 1, source)):
        status, answer = update(url, *wrong)
        assert (status, answer["error"]["code"]) == (409, "version_conflict")
    for source in (str(Path(other) / "nowhere"), "relative", {"backend": "nccl", "updates": [{}]}):
        status, answer = update(url, version + 1, source)
        assert (status, answer["error"]["code"]) == (400, "wrong_source")
    assert update(url, 0, other)[0] == 400
    assert update(url, version + 1, other, mode="quickly")[0] == 400
    assert weights(url) == before


def test_a_hundred_updates_under_load_lose_no_rollout_and_mislabel_no_token(
    url: str,
    config: dict[str, Any],
    folder: Path,
    write_weights: WriteWeights,
    next_version: Callable[[], int],
) -> None:
    done = threading.Event()
    seeds: dict[int, int] = dict.fromkeys(versions(url), 0)
    rows = sums(ROWS_PER_CALL, folder)

    def load() -> int:
        ran = 0
        with gym_ray.RolloutClient(url, api_key=KEY) as client:
            while not done.is_set():
                results = list(client.run(rows, timeout_seconds=120))
                assert [result.reward for result in results] == [1.0] * ROWS_PER_CALL
                ran += len(results)
        return ran

    sizes: list[dict[str, int]] = []
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        try:
            for number in range(UPDATES):
                version, seed = next_version(), number * 17
                seeds[version] = seed
                status, report = update(
                    url,
                    version,
                    write_weights(seed=seed),
                    mode="drain" if number % 5 == 4 else "keep",
                )
                assert status == 200, report
                assert [replica["version"] for replica in report["replicas"]] == [version] * 2
                if number in (19, UPDATES - 1):
                    processes = replica_processes(config, "policy")
                    sizes.append({key: each.memory_info().rss for key, each in processes.items()})
        finally:
            done.set()
        ran = sum(each.result() for each in loads)

    rollouts = list(gym_ray.read_rollouts(config["serve"]["output"]))
    assert len(rollouts) == ran
    assert {rollout.status for rollout in rollouts} == {"completed"}
    seen = [require_own_logprobs(rollout, seeds) for rollout in rollouts]
    assert set().union(*seen) <= set(seeds)
    assert len(set().union(*seen)) > UPDATES / 2, "the load met the updates"
    assert sum(len(each) > 1 for each in seen) > UPDATES / 4, "generations went on across them"
    early, late = sizes
    assert early.keys() == late.keys(), "no replica was replaced"
    for replica, size in late.items():
        assert size - early[replica] < GROWTH_BYTES


def test_a_replica_that_starts_later_has_the_current_weights(
    url: str,
    config: dict[str, Any],
    write_weights: WriteWeights,
    next_version: Callable[[], int],
) -> None:
    version, source = next_version(), write_weights(seed=9)
    assert update(url, version, source)[0] == 200
    name, process = replica_processes(config, "policy").popitem()

    process.kill()

    def replaced() -> bool:
        running = {replica["replica"]: replica for replica in weights(url)["replicas"]}
        return len(running) == 2 and name not in running

    until(replaced, 120, "another replica runs")
    report = weights(url)
    assert [replica["version"] for replica in report["replicas"]] == [version] * 2
    assert len({replica["loaded"] for replica in report["replicas"]}) == 1


def test_a_replica_that_cannot_load_is_named_and_replaced_by_one_that_has_the_weights(
    url: str, folder: Path, write_weights: WriteWeights, next_version: Callable[[], int]
) -> None:
    version, source = next_version(), write_weights(once(folder / "broken"))

    status, answer = update(url, version, source)

    assert (status, answer["error"]["code"]) == (503, "replicas_failed")
    failed = [each for each in answer["report"]["replicas"] if each["error"] is not None]
    assert len(failed) == 1
    assert "the disk is broken" in failed[0]["error"]
    assert failed[0]["replica"] in answer["error"]["message"]

    def replaced() -> bool:
        running = {replica["replica"] for replica in weights(url)["replicas"]}
        return len(running) == 2 and failed[0]["replica"] not in running

    until(replaced, 120, "another replica runs")
    assert versions(url) == [version] * 2
    status, report = update(url, version, source)
    assert (status, report["changed"]) == (200, False)


@pytest.mark.parametrize("when_stale", ["drop", "wait"])
def test_no_rollout_is_older_than_max_staleness_allows(
    url: str,
    config: dict[str, Any],
    folder: Path,
    write_weights: WriteWeights,
    next_version: Callable[[], int],
    when_stale: str,
) -> None:
    """One attempt may be dropped by each of some updates; collections try again."""
    collect = {
        **config["collect"],
        "output": str(folder / f"stale-{when_stale}"),
        "num_repeats": 10,
        "max_in_flight": 16,
        "max_staleness": 0,
        "when_stale": when_stale,
        "max_attempts": 10,
    }
    done = threading.Event()
    seeds: dict[int, int] = {}

    def step() -> None:
        version = next_version()
        seeds[version] = version
        assert update(url, version, write_weights(seed=version))[0] == 200

    def updates() -> None:
        while not done.wait(1.0):
            step()

    step()
    with ThreadPoolExecutor(1) as pool:
        updating = pool.submit(updates)
        try:
            summary = gym_ray.collect({**config, "collect": collect}, quiet=True)
        finally:
            done.set()
        updating.result()

    assert (summary.completed, summary.failed) == (400, 0)
    rollouts = list(gym_ray.read_rollouts(summary.output))
    seen = [require_own_logprobs(rollout, seeds) for rollout in rollouts]
    assert all(len(each) == 1 for each in seen)
    assert len(set().union(*seen)) > 2, "the collection met the updates"
    retried = sum(rollout.attempts > 1 for rollout in rollouts)
    assert (retried > 0) == (when_stale == "drop")


def test_the_command_line_shows_and_updates_what_collections_use(
    url: str,
    cluster: str,
    folder: Path,
    write_weights: WriteWeights,
    next_version: Callable[[], int],
) -> None:
    version, source = next_version(), write_weights()

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gym_ray", "weights", str(folder / "serve.yaml"), *arguments],
            env={**os.environ, "RAY_ADDRESS": cluster},
            capture_output=True, check=check, text=True, timeout=120,
        )  # fmt: skip

    report = json.loads(run("--version", str(version), "--checkpoint", source, "--json").stdout)
    assert report == {**weights(url), "changed": True}
    shown = run().stdout
    assert shown.startswith(f"version {version} of {source}\n")
    assert shown.count(f": version {version}, loaded ") == 2
    older = run("--version", "1", "--checkpoint", source, check=False)
    assert older.returncode == 2
    assert "versions only count up" in older.stderr
    half = run("--version", "1", check=False)
    assert (half.returncode, "--checkpoint" in half.stderr) == (2, True)


def test_a_record_is_of_one_application_and_the_model_it_was_started_with(
    config: dict[str, Any],
) -> None:
    """`serve deploy` may put another model under the same name."""
    record = WeightsRecord.of(WeightsUpdate(version=3, source="/checkpoints/3"), "f")
    connection = connect(load_config(config))
    try:
        WeightsStore("app", "small").write(record)
        WeightsStore("app-2", "small").write(record)

        assert WeightsStore("app", "small").read() == record
        assert WeightsStore("app", "large").read() is None
        WeightsStore.forget("app")
        assert WeightsStore("app", "small").read() is None
        assert WeightsStore("app-2", "small").read() == record
        WeightsStore.forget("app-2")
    finally:
        disconnect(connection)
