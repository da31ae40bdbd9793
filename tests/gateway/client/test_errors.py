"""What the client says of a service that refuses, is gone, or is another."""

from __future__ import annotations

import pickle
import socket
import threading
from typing import Any

import pytest
from fastapi import FastAPI

from gym_ray import RolloutClient
from gym_ray.client import (
    BatchConflict,
    ClientError,
    RequestRefused,
    ServiceUnavailable,
    Unauthorized,
)
from tests.gateway.batches import KEY, Rollouts, batch_service, tasks
from tests.gateway.conftest import serving


def test_a_wrong_key_is_told_at_once(base_url: str) -> None:
    for key in (None, "another"):
        with (
            RolloutClient(base_url, api_key=key) as client,
            pytest.raises(Unauthorized, match="GYM_RAY_API_KEY"),
        ):
            list(client.run(tasks(1)))


def test_the_key_may_be_in_the_environment(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GYM_RAY_API_KEY", KEY)
    with RolloutClient(base_url) as client:
        assert len(list(client.run(tasks(1)))) == 1


def test_an_empty_key_is_none_whatever_the_environment_says(
    base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GYM_RAY_API_KEY", KEY)
    with RolloutClient(base_url, api_key="") as client, pytest.raises(Unauthorized):
        list(client.run(tasks(1)))


def test_closing_the_client_ends_what_another_thread_tries_again() -> None:
    errors: list[Exception] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = RolloutClient(f"http://127.0.0.1:{listener.getsockname()[1]}", max_retries=1000)

        def update() -> None:
            try:
                client.update_weights(1, "/checkpoints/1")
            except ClientError as error:
                errors.append(error)

        thread = threading.Thread(target=update, daemon=True)
        thread.start()
        for _ in range(2):
            listener.accept()[0].close()
        client.close()
        thread.join(20)

    assert len(errors) == 1


def test_a_service_that_is_not_there_is_named() -> None:
    with (
        RolloutClient("http://127.0.0.1:1", max_retries=1) as client,
        pytest.raises(
            ServiceUnavailable, match=r":1 cannot be reached: Connection refused;.*\(2 tries in"
        ),
    ):
        list(client.run(tasks(1)))
    with pytest.raises(ValueError, match="base_url must be like"):
        RolloutClient("localhost:8000")


def test_another_service_is_told_from_ours() -> None:
    with (
        serving(FastAPI()) as url,
        RolloutClient(url, max_retries=1) as client,
        pytest.raises(ServiceUnavailable, match=r"answered 404.*is this a gym-ray service that"),
    ):
        list(client.run(tasks(1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"rollout_timeout_seconds": 0}, "rollout_timeout_seconds"),
    ],
)
def test_the_service_says_what_it_does_not_take(
    client: RolloutClient, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestRefused, match=message):
        list(client.run(tasks(1), **options))


def test_impossible_options_are_refused_here(client: RolloutClient) -> None:
    with pytest.raises(ValueError, match="max_in_flight must be at least 1"):
        list(client.run(tasks(1), max_in_flight=0))
    with pytest.raises(ValueError, match="at least one rollout"):
        list(client.groups(tasks(1), 0))
    with pytest.raises(ValueError, match="on_failure"):
        list(client.groups(tasks(1), 1, on_failure="ignore"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="letters, digits"):
        list(client.run(tasks(1), name="a/b"))
    with pytest.raises(ValueError, match="more than the service takes"):
        list(client.groups(tasks(1), 5000))


def test_errors_and_results_can_be_pickled(client: RolloutClient) -> None:
    (result,) = client.run(tasks(1))

    assert pickle.loads(pickle.dumps(result)).reward == 0
    assert str(pickle.loads(pickle.dumps(BatchConflict("taken")))) == "taken"


def test_rows_that_only_together_are_too_large_are_sent_apart(rollouts: Rollouts) -> None:
    rows = tasks(20, padding="x" * 9_000)
    with (
        batch_service(rollouts, max_body_bytes=50_000) as url,
        RolloutClient(url, api_key=KEY) as client,
    ):
        assert len(list(client.run(rows))) == 20
        with pytest.raises(RequestRefused, match="one task row is too large"):
            list(client.run([*rows, *tasks(1, padding="x" * 60_000)]))
