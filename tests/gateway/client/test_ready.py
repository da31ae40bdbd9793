"""A service that is not there yet: the client waits, and tells what it waits for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse

from gym_ray import RolloutClient
from gym_ray.client import CallTimeout, RequestRefused, ServiceUnavailable
from gym_ray.serving.starting import StartingAnswer
from tests.gateway.batches import KEY, Rollouts, batch_service, tasks
from tests.gateway.conftest import serving
from tests.serve_proxy import without_a_route


class Starting:
    """Stands before a gateway and is Serve without it, for the first requests.

    Args:
        app: the gateway.
        requests: how many.
    """

    def __init__(self, app: Any, requests: int) -> None:
        self._app = app
        self._left = requests
        self._start = StartingAnswer(without_a_route)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._left -= 1
        await (self._start if self._left >= 0 else self._app)(scope, receive, send)


def starting(requests: int) -> Callable[[Any], Any]:
    return lambda app: Starting(app, requests)


@pytest.fixture
def dead_url() -> Iterator[str]:
    """Where nobody listens, nor will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_service_that_starts_is_waited_for_and_uses_up_no_retries() -> None:
    with (
        batch_service(Rollouts(), behind=starting(2)) as url,
        RolloutClient(url, api_key=KEY, max_retries=0) as client,
    ):
        began = time.monotonic()
        assert len(list(client.run(tasks(3)))) == 3
        # As long as it asked for, each time.
        assert time.monotonic() - began >= 4


def test_ready_is_when_the_service_answers() -> None:
    with (
        batch_service(Rollouts(), behind=starting(1)) as url,
        RolloutClient(url, api_key=KEY, max_retries=0) as client,
    ):
        client.wait_ready(60)
        client.wait_ready()
        assert len(list(client.run(tasks(1)))) == 1


def test_ready_needs_nobody_who_listens_to_begin_with() -> None:
    ready = threading.Event()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with RolloutClient(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:

            def wait() -> None:
                client.wait_ready(60)
                ready.set()

            threading.Thread(target=wait, daemon=True).start()
            assert not ready.wait(0.5)
            with batch_service(Rollouts(), listener=listener):
                assert ready.wait(30)


def test_who_is_not_ready_in_time_is_told_why(dead_url: str) -> None:
    with RolloutClient(dead_url) as client:
        with pytest.raises(
            ServiceUnavailable,
            match=rf"not ready within 0\.5 s: {dead_url} cannot be reached: Connection refused",
        ) as found:
            client.wait_ready(0.5)
        assert " tries in " in str(found.value)
    with (
        batch_service(Rollouts(), behind=starting(100)) as url,
        RolloutClient(url) as client,
        pytest.raises(ServiceUnavailable, match="answered 503: no gateway is up here: the service"),
    ):
        client.wait_ready(0.5)


def test_another_service_is_not_waited_for() -> None:
    async def well(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse({"well": True})(scope, receive, send)

    with (
        serving(well) as url,  # type: ignore[arg-type]
        RolloutClient(url) as client,
        pytest.raises(RequestRefused, match="is no gym-ray service"),
    ):
        client.wait_ready(60)
    with (
        batch_service(Rollouts()) as url,
        RolloutClient(f"{url}/v1", api_key=KEY) as client,
        pytest.raises(RequestRefused, match="there is no such route"),
    ):
        client.wait_ready(60)


@pytest.mark.parametrize("given", [tasks(5), iter(tasks(5))], ids=["list", "iterator"])
def test_a_call_in_vain_says_how_many_of_how_many_and_why(dead_url: str, given: Any) -> None:
    with (
        RolloutClient(dead_url) as client,
        pytest.raises(CallTimeout) as found,
    ):
        list(client.groups(given, 4, timeout_seconds=0.5, received=[1, 7]))

    known = "0 of 16 rollouts were there" if isinstance(given, list) else "0 rollouts were there"
    assert str(found.value).startswith(f"within 0.5 s, {known}")
    assert "cannot be reached: Connection refused" in str(found.value)


@pytest.mark.parametrize(
    ("header", "seconds"), [("1", 1.0), ("0.5", 0.5), ("nan", 0), ("soon", 0), ("-3", 0), (None, 0)]
)
def test_a_busy_service_is_asked_again_when_it_says(header: str | None, seconds: float) -> None:
    app = FastAPI()
    asked: list[float] = []

    @app.get("/weights")
    async def weights() -> JSONResponse:
        asked.append(time.monotonic())
        headers = {} if header is None else {"Retry-After": header}
        return JSONResponse({"error": {"message": "busy"}}, 503, headers)

    with (
        serving(app) as url,
        RolloutClient(url, max_retries=1) as client,
        pytest.raises(ServiceUnavailable, match=r"503: busy; see the service's log \(2 tries"),
    ):
        client.weights()

    first, second = asked
    assert second - first >= seconds
