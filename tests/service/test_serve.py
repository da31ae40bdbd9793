"""`gym-ray serve` over HTTP: OpenAI's client, whole rollouts, keys, disconnects, and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import gym_ray
from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError
from tests.cluster import scripted_config, serve_port, sums, until, write_rows

KEY = "the-key-of-this-test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def config(cluster: str, folder: Path) -> dict[str, Any]:
    """A policy of this module's own, slow enough to go away from."""
    rows = write_rows(folder / "tasks.jsonl", sums(3, folder))
    config = scripted_config(folder, rows, folder / "requests")
    config["policy"]["engine_args"]["latency_seconds"] = 2.0
    config["serve"] = {"port": serve_port()}
    return config


@pytest.fixture(scope="module")
def url(cluster: str, config: dict[str, Any], folder: Path) -> Iterator[str]:
    """Base URL of a `gym-ray serve` process on the session's cluster."""
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "gym_ray", "serve", str(path)],
        env={**os.environ, "RAY_ADDRESS": cluster, "GYM_RAY_API_KEY": KEY},
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    reader.start()
    until(lambda: any("ready at" in line for line in lines), 120, f"ready: {lines}")
    assert not any(KEY in line for line in lines)
    yield next(line for line in lines if "ready at" in line).split()[2].rstrip(";")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 0
    reader.join(timeout=10)
    from ray import serve

    # Ctrl-C has left no application of this config behind.
    assert not [
        name
        for name in serve.status().applications
        if any(name in line for line in lines if "serving" in line)
    ]


def post(
    url: str, body: bytes, key: str | None = KEY, timeout: float = 60
) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def openai_client(url: str) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, timeout=60, max_retries=0)


def test_openais_client_talks_to_the_policy(url: str) -> None:
    client = openai_client(url)

    assert [model.id for model in client.models.list()] == ["scripted"]
    answer = client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "20 + 3 = ?"}]
    )
    assert answer.choices[0].message.content == "23"
    assert answer.choices[0].finish_reason == "stop"


def test_run_samples_the_tokens_that_collect_samples(
    url: str, config: dict[str, Any], folder: Path
) -> None:
    summary = gym_ray.collect(config, quiet=True)
    for rollout in gym_ray.read_rollouts(summary.output):
        status, row = post(f"{url}/run", rollout.spec.task.encode())

        assert status == 200
        assert row["reward"] == rollout.reward == 1.0
        assert row["expected_answer"] == json.loads(rollout.spec.task)["expected_answer"]
        item = row["response"]["output"][-1]
        tokens = item["prompt_token_ids"] + item["generation_token_ids"]
        assert tokens == rollout.token_ids.tolist()
        sampled = rollout.logprobs[rollout.loss_mask == 1]
        assert item["generation_log_probs"] == sampled.tolist()


def test_failures_have_statuses(url: str, folder: Path) -> None:
    def run(**fields: Any) -> tuple[int, str]:
        row = {**sums(1, folder)[0], **fields}
        status, answer = post(f"{url}/run", json.dumps(row).encode())
        return status, answer["error"]["code"]

    assert run(expected_answer=None) == (400, "task_invalid")
    assert run(reset_error="no such level") == (422, "environment_error")
    long = {"input": "1 + 1 = ?" + "x" * 5000}
    assert run(responses_create_params=long) == (400, "policy_rejected")
    assert post(f"{url}/run", b"{")[0] == 400


@pytest.mark.parametrize("path", ["/run", "/batches/b/tasks", "/v1/chat/completions", "/tokenize"])
def test_a_key_is_asked_for_everywhere(url: str, path: str) -> None:
    for key in (None, "another"):
        status, answer = post(url + path, b"{}", key=key)
        assert status == 401
        assert KEY not in json.dumps(answer)


def aborted(requests: Path) -> list[str]:
    if not requests.exists():
        return []
    entries = [json.loads(line) for line in requests.read_text().splitlines()]
    return [entry["request_id"] for entry in entries if entry.get("aborted")]


def started(requests: Path) -> list[str]:
    entries = [json.loads(line) for line in requests.read_text().splitlines()]
    return [entry["request_id"] for entry in entries if not entry.get("aborted")]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/run"])
def test_a_client_that_goes_away_aborts_its_generations(
    url: str, path: str, folder: Path, config: dict[str, Any]
) -> None:
    """Others' generations that run at the same time go on."""
    requests = folder / "requests"
    user = {"role": "user", "content": "1 + 1 = ?"}
    body = json.dumps(
        {"model": "scripted", "messages": [user]} if "chat" in path else sums(1, folder)[0]
    ).encode()
    before, already = set(started(requests)), set(aborted(requests))
    other = threading.Thread(
        target=post,
        args=(
            f"{url}/v1/chat/completions",
            json.dumps({"model": "scripted", "messages": [user]}).encode(),
        ),
    )
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), 10) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        until(lambda: len(set(started(requests)) - before) == 1, 20, "the call has arrived")
        ours = set(started(requests)) - before
        other.start()
    until(lambda: set(aborted(requests)) - already == ours, 20, "the generation was aborted")
    other.join(timeout=60)
    assert set(aborted(requests)) - already == ours


def test_serve_elsewhere_says_what_listens_here(url: str, config: dict[str, Any]) -> None:
    from gym_ray.serving.http import start_http

    elsewhere = load_config(config, [f"serve.port={serve_port() + 1}"])

    with pytest.raises(ConfigError, match=f"listens on 127.0.0.1:{serve_port()}.*gym-ray-"):
        start_http(elsewhere.serve, print)
