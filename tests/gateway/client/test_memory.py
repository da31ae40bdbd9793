"""What the service keeps for clients, and what gives way when it is too much."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import urllib.error
import urllib.request
from typing import Any

import pytest

from gym_ray import RolloutClient
from gym_ray.batches.host import BatchHost
from gym_ray.batches.protocol import BatchState, Opening
from gym_ray.client import (
    ResultsMissing,
    ServiceUnavailable,
)
from tests.gateway.batches import KEY, Rollouts, batch_service, state, tasks, until


def test_finished_rollouts_hold_back_new_ones_until_acknowledged(rollouts: Rollouts) -> None:
    rollouts.text_length = 10_000
    with (
        batch_service(rollouts, kept_bytes=50_000, max_running=2) as url,
        RolloutClient(url, api_key=KEY) as client,
    ):
        results = client.run(tasks(40), name="large")
        next(results)
        until(lambda: rollouts.running == 0, "nothing is started any more")
        until(lambda: (state(url, "large") or {})["waiting"] > 25, "the others wait")
        assert len(rollouts.started) < 10
        assert len(list(results)) == 39


def test_a_service_that_lost_its_batches_is_given_them_again(rollouts: Rollouts) -> None:
    """As when the replica that holds them is replaced."""
    hosts: list[Losing] = []

    class Losing(BatchHost):
        async def open(self, name: str, opening: Opening) -> BatchState:
            self.loop = asyncio.get_running_loop()
            hosts.append(self)
            return await super().open(name, opening)

    with (
        batch_service(rollouts, Losing) as url,
        RolloutClient(url, api_key=KEY, lease_seconds=1) as client,
    ):
        rollouts.hold, rollouts.hold_from = True, 5
        results = client.run(tasks(20), name="lost")
        found = [next(results).index for _ in range(5)]
        asyncio.run_coroutine_threadsafe(hosts[0].stop(), hosts[0].loop).result(10)
        rollouts.hold = False
        found += [result.index for result in results]

    assert sorted(found) == list(range(20))


def test_json_says_the_same_to_other_clients(base_url: str) -> None:
    def ask(method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{base_url}/batches/plain{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
            return json.loads(content) if content else None

    holder = os.urandom(16).hex()
    assert ask("PUT", "", {"holder": holder})["room"] == 4096
    rows = [{"index": 4, "task": tasks(8)[7]}, {"index": 5, "task": "no task"}]
    assert ask("POST", f"/tasks?holder={holder}", {"rows": rows}) == {"acknowledged": []}
    results: dict[int, Any] = {}
    cursor = 0
    while len(results) < 2:
        page = ask("GET", f"/results?holder={holder}&after={cursor}&wait=20")
        results |= {result["index"]: result for result in page["results"]}
        cursor = page["cursor"]
    assert results[4]["result"]["reward"] == 7
    assert results[5]["error"]["code"] == "task_invalid"
    ask("POST", f"/acknowledge?holder={holder}", {"indices": [4, 5]})
    again = ask("POST", f"/tasks?holder={holder}", {"rows": rows})
    assert again == {"acknowledged": [4, 5]}
    assert ask("GET", "")["acknowledged"] == 2
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask("DELETE", "")  # which is running, and another client's for all one knows
    assert refused.value.code == 409
    ask("DELETE", f"?holder={holder}")
    assert state(base_url, "plain") is None


def test_rows_the_service_never_heard_of_are_missed(rollouts: Rollouts) -> None:
    class Forgetful(BatchHost):
        async def submit(self, *given: Any) -> list[int]:
            return []

    with (
        batch_service(rollouts, kind=Forgetful) as url,
        RolloutClient(url, api_key=KEY, lease_seconds=1) as client,
        pytest.raises(ResultsMissing, match="knows nothing of 3 rollouts, the first of index 0"),
    ):
        list(client.run(tasks(3)))


def test_the_oldest_batch_nobody_holds_makes_way(rollouts: Rollouts) -> None:
    rollouts.hold, rollouts.hold_from = True, 1
    with (
        batch_service(rollouts, max_batches=2) as url,
        RolloutClient(url, api_key=KEY, max_retries=1) as client,
    ):
        calls = [client.run(tasks(2), name=name) for name in ("first", "second")]
        for call in calls:
            next(call)
        with pytest.raises(ServiceUnavailable, match="2 batches in use"):
            next(client.run(tasks(2), name="third"))
        for call in calls:
            call.close()
        next(client.run(tasks(2), name="third"))
        assert state(url, "first") is None
        assert state(url, "second") is not None


def test_who_waits_for_memory_goes_on_when_another_client_leaves(rollouts: Rollouts) -> None:
    rollouts.text_length = 10_000
    with (
        batch_service(rollouts, kept_bytes=5_000) as url,
        RolloutClient(url, api_key=KEY) as client,
        RolloutClient(url, api_key=KEY) as other,
    ):
        full = other.run(tasks(1), name="full")
        next(full)
        received: list[int] = []
        waiting = threading.Thread(
            target=lambda: received.extend(
                result.index for result in client.run(tasks(1), name="waits")
            ),
            daemon=True,
        )
        waiting.start()
        until(lambda: (state(url, "waits") or {}).get("waiting") == 1, "there is no memory")

        full.close()
        waiting.join(20)
        assert received == [0]


def test_results_of_a_client_that_left_give_way_to_those_of_one_that_is_there(
    rollouts: Rollouts,
) -> None:
    rollouts.text_length = 10_000
    with (
        batch_service(rollouts, kept_bytes=50_000) as url,
        RolloutClient(url, api_key=KEY) as client,
    ):
        left = client.run(tasks(8), name="left")
        next(left)
        until(lambda: (state(url, "left") or {})["finished"] >= 5, "memory is full")
        left.close()

        assert len(list(client.run(tasks(20), name="there"))) == 20
        assert len(list(client.run(tasks(8), name="left"))) == 8
