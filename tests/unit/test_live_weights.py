"""One replica's weights, without Serve: a rollout that goes on across updates, the record it
follows, and how it ends.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gym_ray.errors import ConfigError, FailureKind, GymRayError
from gym_ray.policies.bundled import fingerprint
from gym_ray.policies.call import Call
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.policies.weights import Place, WeightsUpdate
from gym_ray.sampling import Sampling
from gym_ray.serving.live_weights import LiveWeights
from gym_ray.serving.weights_record import WeightsRecord
from gym_ray.turn import Generation
from tests.play import Play, call_tool

Weights = Callable[[int], WeightsUpdate]


class Store:
    """A record in this process."""

    def __init__(self, record: WeightsRecord | None = None) -> None:
        self.record = record

    def read(self) -> WeightsRecord | None:
        return self.record


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    def write(version: int) -> WeightsUpdate:
        directory = tmp_path / str(version)
        directory.mkdir()
        script = {"reply": "tests.replies:turns_in_the_prompt", "seed": version}
        (directory / "script.json").write_text(json.dumps(script))
        return WeightsUpdate(version=version, source=str(directory))

    return write


def engine() -> ScriptedEngine:
    return ScriptedEngine(model="m", engine_args={"reply": "tests.replies:turns_in_the_prompt"})


def record_of(update: WeightsUpdate) -> WeightsRecord:
    assert update.checkpoint is not None
    return WeightsRecord.of(update, fingerprint(update.checkpoint))


@pytest.mark.parametrize(("max_staleness", "completes"), [(None, True), (1, True), (0, False)])
def test_a_rollout_goes_on_across_an_update_as_far_as_its_age_allows(
    play: Play, weights: Weights, max_staleness: int | None, completes: bool
) -> None:
    update = weights(1)
    asked: list[GenerationRequest] = []
    live: list[LiveWeights] = []

    async def generate(request: GenerationRequest) -> Generation:
        if not live:
            live.append(LiveWeights(engine(), "a", None))
        if len(asked) == 1:
            await live[0].update(update, record_of(update).fingerprint, Place())
        asked.append(request)
        return await live[0].generate(request)

    rollout = play(
        call_tool("add", first=1, second=2), "3", generate=generate, max_staleness=max_staleness
    )

    if completes:
        spans = [[span.version for span in turn.version_spans] for turn in rollout.turns]
        assert spans == [[0], [1]]
    else:
        assert rollout.error_kind == FailureKind.POLICY_STALE
    if max_staleness is not None:
        assert [each.staleness and each.staleness.oldest_version for each in asked] == [None, 0]


def test_a_replica_starts_with_the_record_and_follows_it_without_being_told(
    weights: Weights,
) -> None:
    store: Any = Store(record_of(weights(4)))

    async def scenario() -> None:
        live = LiveWeights(engine(), "a", store)
        await live.start()
        assert live.current.version == 4
        store.record = record_of(weights(6))
        await until(lambda: live.current.version == 6)
        old = await live.update(weights(5), None, Place())
        assert (old.version, old.error) == (6, None), "never back"
        live.stop()

    asyncio.run(scenario())


def test_a_replica_does_not_start_with_weights_that_are_not_those_of_the_record(
    weights: Weights,
) -> None:
    record = record_of(weights(4))
    assert record.checkpoint is not None
    (Path(record.checkpoint) / "config.json").write_text("{}")
    changed: Any = Store(record)
    nowhere: Any = Store(dataclasses.replace(record, checkpoint=None, origin="nccl"))

    with pytest.raises(GymRayError, match="write every version to a folder of its own"):
        asyncio.run(LiveWeights(engine(), "a", changed).start())
    with pytest.raises(GymRayError, match="are in no checkpoint"):
        asyncio.run(LiveWeights(engine(), "a", nowhere).start())


def test_a_replica_checks_the_record_before_it_loads_what_engines_only_warn_of(
    weights: Weights,
) -> None:
    class Strict(ScriptedEngine):
        async def check_weights(self, update: WeightsUpdate, place: Place) -> None:
            raise ConfigError("tensor lm_head.weight is missing")

    store: Any = Store(record_of(weights(4)))
    strict = Strict(model="m", engine_args={"reply": "tests.replies:turns_in_the_prompt"})

    with pytest.raises(GymRayError, match=r"weights 4 .* tensor lm_head\.weight is missing"):
        asyncio.run(LiveWeights(strict, "a", store).start())


def test_a_replica_that_takes_too_long_says_so_serves_no_more_and_ends(weights: Weights) -> None:
    store: Any = Store()
    ends: list[int] = []
    update = weights(1).model_copy(update={"timeout_seconds": 0.01, "mode": "drain"})

    async def scenario() -> None:
        slow = ScriptedEngine(model="m", engine_args={"reply": "a", "latency_seconds": 60})
        live = LiveWeights(slow, "a", store, end=ends.append)
        await live.start()
        running = asyncio.create_task(live.generate(_request()))
        await until(lambda: slow.load().running == 1)
        failed = await live.update(update, record_of(update).fingerprint, Place())
        assert failed.error is not None
        assert "not done within 0.01 s" in failed.error
        with pytest.raises(Exception, match=r"policy_unavailable"):
            await live.generate(_request())
        await until(lambda: bool(ends))
        running.cancel()
        live.stop()

    asyncio.run(scenario())
    assert ends == [1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110, nothing tells of it
            await asyncio.sleep(0.02)


def _request() -> GenerationRequest:
    return GenerationRequest(Call("r/1/0", Sampling()), np.arange(3, dtype=np.int32))
