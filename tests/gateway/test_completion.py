"""Rollouts as one prompt and one completion, those that are none, and new weights by `refit`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gym_ray import RolloutClient
from gym_ray.client import RolloutResult, ServiceUnavailable, Unauthorized, transport
from gym_ray.client import errors as client_errors
from gym_ray.integrations.completion import NotTrainable, completion_of
from gym_ray.integrations.verl import RolloutAgentLoop, rows
from gym_ray.policies.weights import RefusedUpdate, ReplicaWeights, WeightsReport
from gym_ray.rollout import Branch
from tests.gateway.played import ADMIN_KEY, CALLS, KEY, Played, Weights, played_service, task


@pytest.fixture
def weights() -> Weights:
    return Weights()


@pytest.fixture
def url(weights: Weights) -> Iterator[str]:
    with played_service(Played(), weights) as url:
        yield url


def result_of(url: str, *rollouts: list[str] | None) -> RolloutResult:
    with RolloutClient(url, api_key=KEY) as client:
        (result,) = client.run([task(*rollouts)])
        return result


def test_prompt_and_completion_are_the_rollouts_sequence(url: str) -> None:
    result = result_of(url, CALLS)

    completion = completion_of(result.rollout)

    assert completion.prompt_ids + completion.completion_ids == result.token_ids.tolist()
    assert len(completion.prompt_ids) == result.turns[0].prompt_length
    sampled = np.array(completion.mask) == 1
    assert np.array(completion.completion_ids)[sampled].tolist() == (
        result.token_ids[result.loss_mask == 1].tolist()
    )
    assert (np.array(completion.logprobs) != 0).tolist() == sampled.tolist()
    assert not sampled.all()
    assert (completion.reward, completion.versions) == (2.0, (0, 0))


def test_what_is_no_single_sequence_says_why(url: str) -> None:
    result = result_of(url, CALLS)
    rollout = result.rollout
    branch = Branch(rollout.token_ids, rollout.loss_mask, rollout.logprobs)
    branched = dataclasses.replace(rollout, side_branches=(branch,))
    none = {name: getattr(rollout, name)[:0] for name in ("token_ids", "loss_mask", "logprobs")}
    tokenless = dataclasses.replace(rollout, turns=(), **none)

    for changed, says in ((branched, "1 side branches"), (tokenless, "no sampled tokens")):
        with pytest.raises(NotTrainable, match=says) as raised:
            completion_of(changed)
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    with pytest.raises(NotTrainable, match="failed with verifier_timeout: too slow"):
        completion_of(result_of(url, None).rollout)


@pytest.mark.parametrize(
    ("rollout", "error", "says"),
    [
        (None, NotTrainable, "verifier_timeout: too slow"),
        (["long " * 200, "x"], ValueError, "set data.max_prompt_length"),
    ],
)
def test_what_verl_has_no_place_for_is_an_error(
    url: str, rollout: list[str] | None, error: type[Exception], says: str
) -> None:
    lengths = SimpleNamespace(prompt_length=512, response_length=400)
    config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=lengths))
    loop = RolloutAgentLoop(SimpleNamespace(config=config), url, api_key=KEY, tokenizer=None)
    (row,) = rows([task(rollout)])

    with pytest.raises(error, match=says):
        asyncio.run(loop.run({"temperature": 1.0, "top_p": 1.0}, **row))


def refitting(url: str, **options: Any) -> RolloutClient:
    return RolloutClient(url, **{"admin_key": ADMIN_KEY, "max_retries": 2, **options})


def test_refit_counts_on_from_what_the_service_has(
    url: str, weights: Weights, tmp_path: Path
) -> None:
    weights.version = 7
    with refitting(url) as client:
        versions = [client.refit(tmp_path, mode="drain").version for _ in range(2)]

    assert versions == [8, 9]
    assert [(update.version, update.mode) for update in weights.updates] == [
        (8, "drain"),
        (9, "drain"),
    ]
    assert weights.updates[0].source == str(tmp_path)


def test_refit_repeats_what_is_incomplete_and_nothing_else(
    url: str, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_PAUSE_SECONDS", 0.0)
    broken = (ReplicaWeights("b", 0, error="no disk"),)
    failed = WeightsReport(1, str(tmp_path), "sha256:0", broken, changed=True)

    with refitting(url) as client:
        weights.outcomes = [failed, failed]
        assert client.refit(tmp_path).version == 1
        assert [update.version for update in weights.updates] == [1, 1, 1]

        weights.outcomes = [failed, failed, failed]
        with pytest.raises(ServiceUnavailable, match="b: no disk"):
            client.refit(tmp_path)

        weights.updates.clear()
        weights.outcomes = [RefusedUpdate("wrong_source", "torn")]
        with pytest.raises(client_errors.UpdateRefused, match="torn"):
            client.refit(tmp_path)
        assert len(weights.updates) == 1


def test_refit_asks_again_for_an_answer_that_came_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_PAUSE_SECONDS", 0.0)
    report = WeightsReport(4, "", None, (), starting=0)
    answers = [b'{"ver', b"<html>Bad gateway</html>", json.dumps(report.to_json()).encode()]
    bodies = iter(answers)

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = next(bodies)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + (body == b'{"ver')))
            self.end_headers()
            self.wfile.write(body)

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with refitting(f"http://127.0.0.1:{server.server_port}") as client:
                assert client.weights() == report
        finally:
            server.shutdown()
            thread.join()


def test_refit_needs_the_admin_key_and_a_service(
    url: str, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_PAUSE_SECONDS", 0.0)
    monkeypatch.delenv("GYM_RAY_ADMIN_KEY", raising=False)
    with refitting(url, admin_key=None) as client, pytest.raises(Unauthorized):
        client.refit(tmp_path)
    monkeypatch.setenv("GYM_RAY_ADMIN_KEY", ADMIN_KEY)
    with refitting(url, admin_key=None) as client:
        assert client.weights().version == 0
    with (
        refitting("http://127.0.0.1:9") as client,
        pytest.raises(ServiceUnavailable, match="3 tries"),
    ):
        client.weights()
