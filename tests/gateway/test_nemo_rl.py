"""NeMo RL's interface over a real service: its shapes of 0.7, August 2026 and 0.8, shards, rows
asked for again, and everything that is refused before a rollout starts.

The actors run in this process; that they do in Ray's is in tests/service/test_nemo_rl.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pickle
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from typing import Any

import pytest

from gym_ray.config.environment import EnvironmentConfig
from gym_ray.config.policy import SamplingConfig
from gym_ray.errors import ConfigError
from gym_ray.integrations import nemo_rl
from tests.gateway.played import CALLS, IDLES, KEY, Played, played_service, task
from tests.nemo_rl_consumer import (
    PREFIX,
    Shards,
    Tokenizer,
    consume,
    is_infrastructure,
    is_terminal,
    named_group,
    read,
    read_group,
    read_list,
)
from tests.replies import row_of

TOOLS = {"workshop": EnvironmentConfig(agent="tool_calling", agent_refs=["workshop_agent"])}
OTHER = {"shed": EnvironmentConfig(agent="tool_calling")}


@dataclasses.dataclass
class Handle:
    """An actor in this process, called as Ray's are; what it raises has been pickled."""

    actor: Any

    @property
    def run_rollouts(self) -> Handle:
        return self

    def options(self, num_returns: str) -> Handle:
        assert num_returns == "streaming"
        return self

    async def remote(self, *arguments: Any, **keywords: Any) -> AsyncIterator[Awaitable[Any]]:
        try:
            async for told in self.actor.run_rollouts(*arguments, **keywords):
                told = pickle.loads(pickle.dumps(told))
                yield asyncio.sleep(0, told)
        except Exception as error:
            raise pickle.loads(pickle.dumps(error)) from None


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GYM_RAY_API_KEY", KEY)


@pytest.fixture
def url(played: Played) -> Iterator[str]:
    with played_service(played, environments=TOOLS) as url:
        yield url


@contextlib.asynccontextmanager
async def spun_up(actor_class: Any, url: str, **cfg: Any) -> AsyncIterator[Any]:
    """An actor as NeMo RL starts it, in this process."""
    settings = {"service_url": url, "startup_timeout_seconds": 5}
    config = {
        "model_name": "m",
        "base_urls": [],
        "initial_global_config_dict": {"gym_ray": settings},
        **cfg,
    }
    actor = actor_class.__ray_metadata__.modified_class(config)
    await actor._spinup()
    if hasattr(actor, "set_tokenizer"):
        actor.set_tokenizer(Tokenizer())
    yield actor
    await actor.shutdown()


def row(turns: list[str], name: str = "workshop", **fields: Any) -> dict[str, Any]:
    ref = {"type": "responses_api_agents", "name": name}
    return {**task(turns), **row_of(turns), "agent_ref": ref, **fields}


GROUPS = [row(CALLS), row(IDLES), row(IDLES), row(CALLS)]


@pytest.mark.parametrize(
    ("actor_class", "parts"), [(nemo_rl.NemoGymOfAugust, 3), (nemo_rl.NemoGym, 4)]
)
def test_groups_stream_in_the_shape_of_the_version(url: str, actor_class: Any, parts: int) -> None:
    async def scene() -> None:
        async with spun_up(actor_class, url) as actor:
            consumed = await consume(Handle(actor), GROUPS, num_generations=2, parts=parts)
        assert sorted(consumed.groups) == [0, 1]
        assert consumed.timing is not None
        group = read_group(GROUPS[:2], [consumed.results[index] for index in (0, 1)])
        assert group["rewards"] == [2.0, 0.0]

    asyncio.run(scene())


def test_releases_are_given_a_list(url: str) -> None:
    async def scene() -> None:
        async with spun_up(nemo_rl.NemoGymOfReleases, url) as actor:
            rows = [{**row, "_rowidx": index} for index, row in enumerate(GROUPS)]
            results, timing = await actor.run_rollouts(rows, Tokenizer(), PREFIX)
            assert await actor.health_check() is True
        read_list(rows, results)
        assert f"{PREFIX}/postprocess_results_pct" in timing

    asyncio.run(scene())


def test_callers_of_0_8_may_say_that_it_is_one_prompt_and_give_a_trace_along(url: str) -> None:
    async def scene() -> None:
        async with spun_up(nemo_rl.NemoGym, url) as actor:
            stream = actor.run_rollouts(
                named_group([row(IDLES)]),
                PREFIX,
                per_prompt=True,
                _otel_carrier={"traceparent": "x"},
            )
            ((index, agent_ref, result, _),) = [told async for told in stream]
        assert (index, agent_ref["name"]) == (0, "workshop")
        assert "_initial_multimodal_data_omitted" not in result

    asyncio.run(scene())


def test_rows_may_name_their_source_and_are_told_where_they_went(url: str) -> None:
    async def scene() -> None:
        source = task(IDLES, task_source="workshop_agent")
        async with spun_up(nemo_rl.NemoGym, url) as actor:
            rows = named_group([source, source])
            told = [told async for told in actor.run_rollouts(rows, PREFIX)]
        refs = [agent_ref for _, agent_ref, _, _ in told]
        assert refs == [{"type": "responses_api_agents", "name": "workshop"}] * 2

    asyncio.run(scene())


def test_two_shards_take_the_groups_of_their_entries(played: Played, url: str) -> None:
    async def scene(other_url: str) -> None:
        async with (
            spun_up(nemo_rl.NemoGym, url) as workshop,
            spun_up(nemo_rl.NemoGym, other_url) as shed,
        ):
            assert workshop.agent_implementations()["workshop_agent"] == "tool_calling"
            actors = {"a": workshop, "b": shed}
            entries = {name: actor.list_entries() for name, actor in actors.items()}
            shards = Shards(actors, entries)
            for group, hosts in (([row(CALLS)] * 2, workshop), ([row(IDLES, "shed")] * 2, shed)):
                assert shards.actor_of(group) is hosts
                rows = named_group(group)
                results = {
                    index: result async for index, _, result, _ in hosts.run_rollouts(rows, PREFIX)
                }
                for result in results.values():
                    read(result)
                read_group(rows, [results[0], results[1]])
            with pytest.raises(AssertionError, match="no shard hosts elsewhere"):
                shards.actor_of([row(IDLES, "elsewhere")])
        assert (len(played.finished), len(other.finished)) == (2, 2)

    other = Played()
    with played_service(other, environments=OTHER) as other_url:
        asyncio.run(scene(other_url))


def test_what_a_broken_stream_had_not_told_is_told_when_it_is_asked_for_again(
    played: Played, url: str
) -> None:
    async def scene() -> None:
        rows = named_group([row(CALLS), row(IDLES), row(CALLS)])
        async with spun_up(nemo_rl.NemoGym, url) as actor:
            lost = actor.run_rollouts(rows, PREFIX)
            first, *_ = await anext(lost)
            # Its reader is gone, the stream goes on, as Ray's does.
            pending = [row for row in rows if row["_rowidx"] != first]
            again = {index async for index, *_ in actor.run_rollouts(pending, PREFIX)}
            assert again == {0, 1, 2} - {first}
            await lost.aclose()
            assert {index async for index, *_ in actor.run_rollouts(rows, PREFIX)} == {0, 1, 2}
            assert len(played.finished) == 3
            other_attempt = [{**row, "_ng_group_attempt": 1} for row in rows]
            assert len([told async for told in actor.run_rollouts(other_attempt, PREFIX)]) == 3
            assert len(played.finished) == 6

    asyncio.run(scene())


BAD: list[tuple[str, list[dict[str, Any]], str]] = [
    ("no index", [row(IDLES, _rowidx=0), row(IDLES)], "_rowidx=None"),
    ("no task", [row(IDLES, _rowidx=0), {"_rowidx": 1}], "row 1: task_invalid"),
    ("no such environment", [row(IDLES, _rowidx=0), row(IDLES, "x", _rowidx=1)], "agent 'x'"),
]


@pytest.mark.parametrize(("rows", "message"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_a_batch_that_cannot_be_complete_is_refused_before_a_rollout_starts(
    played: Played, rows: list[dict[str, Any]], message: str
) -> None:
    async def scene(url: str) -> None:
        for actor_class in (nemo_rl.NemoGym, nemo_rl.NemoGymOfAugust):
            async with spun_up(actor_class, url) as actor:
                with pytest.raises(Exception, match=message) as refused:
                    await anext(actor.run_rollouts(rows, PREFIX))
                assert not is_infrastructure(refused.value)
                assert isinstance(refused.value, ValueError) or is_terminal(refused.value)
        async with spun_up(nemo_rl.NemoGymOfReleases, url) as actor:
            with pytest.raises(Exception, match=message):
                await actor.run_rollouts(rows, Tokenizer(), PREFIX)

    with played_service(played, environments={**TOOLS, **OTHER}) as url:
        asyncio.run(scene(url))
    assert not played.finished


@pytest.mark.parametrize(
    ("cfg", "sampling", "message"),
    [
        ({"token_capture": {"enabled": True}}, SamplingConfig(), r"token_capture\.enabled=false"),
        ({}, SamplingConfig(top_k=20), "sampling.top_k of the service's config is 20"),
    ],
)
def test_what_rollouts_could_not_be_trained_on_for_is_refused_by_the_spinup(
    played: Played, cfg: Mapping[str, Any], sampling: SamplingConfig, message: str
) -> None:
    async def scene(url: str) -> None:
        with pytest.raises(ConfigError, match=message):
            async with spun_up(nemo_rl.NemoGym, url, **cfg):
                pass

    with played_service(played, environments=TOOLS, sampling=sampling) as url:
        asyncio.run(scene(url))


def test_a_wrong_key_and_what_is_no_service_are_told_by_the_spinup(
    played: Played, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(of: str) -> None:
        async with spun_up(nemo_rl.NemoGym, of):
            pass

    with pytest.raises(ConfigError, match="has no /environments"):
        asyncio.run(scene(f"{url}/v1"))
    monkeypatch.setenv("GYM_RAY_API_KEY", "another")
    with pytest.raises(ConfigError, match=r"another key \(HTTP 401\).* GYM_RAY_API_KEY"):
        asyncio.run(scene(url))
