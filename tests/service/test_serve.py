"""`gym-ray serve` over HTTP: OpenAI's client, whole rollouts, keys, disconnects, and its end."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import gym_ray
from gym_ray.config.load import load_config
from gym_ray.errors import ConfigError
from tests.applications import ADMIN_KEY, KEY, Service
from tests.cluster import serve_port, sums, until


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
    url: str, service: Service, tmp_path: Path
) -> None:
    config = service.config(tmp_path, sums(3, tmp_path, agent_ref="arithmetic"))
    summary = gym_ray.collect(config, quiet=True)
    rollouts = list(gym_ray.read_rollouts(summary.output))
    assert len(rollouts) == 3

    with ThreadPoolExecutor() as pool:
        answers = pool.map(lambda each: post(f"{url}/run", each.spec.task.encode()), rollouts)

    for rollout, (status, row) in zip(rollouts, answers, strict=True):
        assert status == 200
        assert row["reward"] == rollout.reward == 1.0
        assert row["expected_answer"] == json.loads(rollout.spec.task)["expected_answer"]
        item = row["response"]["output"][-1]
        tokens = item["prompt_token_ids"] + item["generation_token_ids"]
        assert tokens == rollout.token_ids.tolist()
        sampled = rollout.logprobs[rollout.loss_mask == 1]
        assert item["generation_log_probs"] == sampled.tolist()


def test_failures_have_statuses(url: str, tmp_path: Path) -> None:
    def run(**fields: Any) -> tuple[int, str]:
        row = {**sums(1, tmp_path, agent_ref="arithmetic")[0], **fields}
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


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/run"])
def test_a_client_that_goes_away_aborts_its_generations(
    url: str, path: str, service: Service, tmp_path: Path
) -> None:
    """Others' generations that run at the same time go on."""
    user = {"role": "user", "content": "1 + 1 = ?"}
    body = json.dumps(
        {"model": "scripted", "messages": [user]}
        if "chat" in path
        else sums(1, tmp_path, agent_ref="arithmetic")[0]
    ).encode()
    before, already = service.started(), service.aborted()
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
        until(lambda: len(service.started() - before) == 1, 20, "the call has arrived")
        ours = service.started() - before
        other.start()
    until(lambda: service.aborted() - already == ours, 20, "the generation was aborted")
    other.join(timeout=60)
    assert service.aborted() - already == ours


def test_an_update_of_the_weights_reaches_the_policy(
    url: str, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "script.json").write_text(json.dumps({"reply": "tests.replies:as_asked"}))
    body = json.dumps({"version": 1, "source": str(tmp_path)}).encode()
    for key in (None, KEY, "another"):
        assert post(f"{url}/weights", body, key=key)[0] == 401

    status, report = post(f"{url}/weights", body, key=ADMIN_KEY)
    (task,) = sums(1, tmp_path, agent_ref="arithmetic")
    assert post(f"{url}/run", json.dumps(task).encode())[0] == 200

    assert (status, report["changed"], report["version"]) == (200, True, 1)
    assert [replica["version"] for replica in report["replicas"]] == [1]
    rollout = next(
        rollout
        for rollout in gym_ray.read_rollouts(service.output)
        if str(tmp_path) in rollout.spec.task
    )
    assert [span.version for span in rollout.turns[0].version_spans] == [1]


def test_serve_elsewhere_says_what_listens_here(url: str, service: Service) -> None:
    from gym_ray.serving.http import start_http

    elsewhere = load_config(service.config(), [f"serve.port={serve_port() + 1}"])

    with pytest.raises(ConfigError, match=f"listens on 127.0.0.1:{serve_port()}.*gym-ray-"):
        start_http(elsewhere.serve, print)
