"""A gateway with batches whose rollouts end when a test says so, and a proxy that drops calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from gym_ray.batches.host import BatchHost
from gym_ray.batches.protocol import Opening
from gym_ray.config.environment import EnvironmentConfig
from gym_ray.errors import FailureKind
from gym_ray.gateway.app import GatewaySettings, create_app
from gym_ray.gateway.batches import batch_routes
from gym_ray.rollout import Producer, Rollout, RolloutSpec, failed_rollout
from gym_ray.routing import Router
from gym_ray.turn import Turn, VersionSpan
from tests.gateway.conftest import serving
from tests.gateway.policies import token_policy

KEY = "the-key-of-the-batches"


def tasks(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"responses_create_params": {"input": f"What is {n}?"}, "n": n, **fields}
        for n in range(count)
    ]


class Rollouts:
    """A `RunBackend`: a rollout's reward is its row's `n`, 1 where it has none.

    Attributes:
        hold: rollouts do not end while it is set; with `hold_from`, only those from that `n` on.
        started: `n` of every rollout that was started, in order.
        openings: how batches were opened.
    """

    def __init__(self) -> None:
        self.hold = False
        self.hold_from = 0
        self.started: list[int] = []
        self.specs: list[RolloutSpec] = []
        self.openings: list[Opening] = []
        self.running = 0
        self.most_running = 0
        self.text_length = 1

    def for_opening(self, opening: Opening) -> Rollouts:
        self.openings.append(opening)
        return self

    async def run(self, spec: RolloutSpec) -> Rollout:
        row = {"n": 1, **json.loads(spec.task)}
        self.started.append(row["n"])
        self.specs.append(spec)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            while self.hold and row["n"] >= self.hold_from:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        finally:
            self.running -= 1
        if "raise" in row:
            raise OSError("the disk is full")
        if "fail" in row:
            return failed_rollout(spec, FailureKind(row["fail"]), "it broke", run_id="run")
        item = {
            "type": "message",
            "role": "assistant",
            "id": "msg_0",
            "content": [{"type": "output_text", "text": "4" * self.text_length}],
        }
        return Rollout(
            spec=spec,
            run_id="run",
            agent="single_turn",
            model="m",
            status="completed",
            reward=float(row["n"]),
            reward_components={"n": float(row["n"])},
            token_ids=np.array([1, 2, row["n"]], dtype=np.int32),
            loss_mask=np.array([0, 0, 1], dtype=np.int8),
            logprobs=np.array([0, 0, -0.5], dtype=np.float32),
            turns=(Turn(2, 1, "stop", (VersionSpan(0, 0, 1),), 0.0, 0.1),),
            response=json.dumps([item]),
            sampling=json.dumps({"temperature": 1.0}),
        )


@contextlib.contextmanager
def batch_service(
    rollouts: Rollouts,
    kind: type[BatchHost] = BatchHost,
    *,
    max_body_bytes: int = 64 * 1024 * 1024,
    behind: Callable[[Any], Any] = lambda app: app,
    listener: socket.socket | None = None,
    **host: Any,
) -> Iterator[str]:
    """Base URL of a gateway, behind an ASGI middleware; further arguments are the `BatchHost`'s."""
    settings = {"max_running": 64, "retention_seconds": 3600.0, **host}
    held = kind(rollouts.for_opening, producer=Producer("run", "m", {}), **settings)
    app = create_app(
        policy=token_policy()[0],
        settings=GatewaySettings(api_key=KEY, max_body_bytes=max_body_bytes),
        routers=[batch_routes(held, Router({"sums": EnvironmentConfig()}))],
    )
    with serving(behind(app), listener) as url:
        yield url


class DroppingProxy:
    """Forwards TCP connections, and cuts them where it is told to.

    Args:
        url: where to.
        drops: `(direction, n)`: the nth piece of data going `up` or `down`, counted over all
            connections, is forwarded half and its connection reset.
    """

    def __init__(self, url: str, drops: Collection[tuple[str, int]] = ()) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._drops = set(drops)
        self._counts = {"up": 0, "down": 0}
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.dropped = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> DroppingProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Reset all connections and take no more."""
        # Closing alone does not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                _reset(connection)
            self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            with self._lock:
                self._open |= {client, server}
            for one, other, direction in ((client, server, "up"), (server, client, "down")):
                threading.Thread(
                    target=self._forward, args=(one, other, direction), daemon=True
                ).start()

    def _forward(self, one: socket.socket, other: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 20):
                with self._lock:
                    drop = (direction, self._counts[direction]) in self._drops
                    self._counts[direction] += 1
                    self.dropped += drop
                other.sendall(data[: len(data) // 2] if drop else data)
                if drop:
                    break
        for connection in (one, other):
            with self._lock:
                self._open.discard(connection)
            _reset(connection)


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Wait for a condition, polling."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"not within {seconds:g} s: {what}")


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def state(url: str, name: str) -> dict[str, Any] | None:
    """How a batch stands; None when there is none."""
    request = urllib.request.Request(
        f"{url}/batches/{name}", headers={"Authorization": f"Bearer {KEY}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
