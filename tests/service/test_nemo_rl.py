"""NeMo RL's actors on a real cluster, read by a consumer that refuses what NeMo RL refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from gym_ray.config.load import load_config
from gym_ray.integrations import nemo_rl
from gym_ray.serving import SERVE_ENVIRONMENT
from tests.applications import Service
from tests.cluster import HERE, scripted_config, serve_port, write_rows
from tests.nemo_rl_consumer import (
    PREFIX,
    Tokenizer,
    consume,
    consume_list,
    is_infrastructure,
    named_group,
)
from tests.nemo_rl_consumer import read_group as group_of
from tests.replies import row_of, tool_calls
from tests.service.test_remote_policies import server

pytestmark = [
    pytest.mark.long(
        "an application, a gateway and six actors of its own (90 s of CPU time); what an actor "
        "makes of rollouts is in tests/unit/test_nemo_rl.py, that they come over Serve in "
        "test_client.py"
    ),
    pytest.mark.timeout(300),
]

CALLS = tool_calls(("add", {"a": 1, "b": 2}), ("count", {}))
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ENVIRONMENTS = {
    "arithmetic": {
        "entrypoint": f"{HERE}/arithmetic.py:Arithmetic",
        "resources": {"num_cpus": 0.1},
    },
    "workshop": {
        "entrypoint": "tests.workshop:Workshop",
        "agent": "tool_calling",
        "agent_refs": ["workshop_agent"],
        "resources": {"num_cpus": 0.1},
    },
    "tool_call_multireward": {
        "entrypoint": "gym_ray.environments.tool_call_multireward:ToolCallMultirewardEnvironment",
        "resources": {"num_cpus": 0.1},
    },
}


def sum_rows(*answers: str, **fields: Any) -> list[dict[str, Any]]:
    """Rows of one group: the policy says `answers`, and the last one is right."""
    return [agent_row("arithmetic", [answer], expected_answer="4", **fields) for answer in answers]


def agent_row(agent: str, replies: list[str], **fields: Any) -> dict[str, Any]:
    """A row as NeMo RL prepares it: sampling in its params, `agent_ref` an object."""
    row: dict[str, Any] = row_of(replies, **fields)
    row["responses_create_params"] |= {"temperature": 1.0, "top_p": 1.0, "max_output_tokens": 256}
    return row | {"agent_ref": {"type": "responses_api_agents", "name": agent}}


def weather_row(call: str, **fields: Any) -> dict[str, Any]:
    expected = {"name": "get_weather", "arguments": {"city": "Lisbon"}}
    row = agent_row("tool_call_multireward", [call], expected_call=expected, **fields)
    row["responses_create_params"]["tools"] = [WEATHER]
    return row


@pytest.fixture(scope="module")
def url(cluster: str, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service with a policy of its own, as `gym-ray serve` starts it."""
    service.stop()
    from gym_ray.serving.application import Application
    from gym_ray.serving.gateway_application import GatewayApplication

    folder = tmp_path_factory.mktemp("nemo_rl")
    rows = write_rows(folder / "tasks.jsonl", [])
    tree = scripted_config(folder, rows, folder / "requests", collect__max_attempts=1)
    tree["policy"]["engine_args"]["reply"] = "tests.replies:turns_in_the_prompt"
    tree["environments"] = ENVIRONMENTS
    tree["serve"] = {"port": serve_port(), "api_key_env": None}
    config = load_config(tree)
    application = Application.deploy(config, print)
    gateway = GatewayApplication.deploy(config, application, print)
    yield gateway.base_url
    gateway.close()
    application.close()


@pytest.fixture(scope="module")
def actor(url: str) -> Iterator[Any]:
    actor = spun_up({"service_url": url})
    yield actor
    ray.get(actor.shutdown.remote())
    ray.kill(actor)


def spun_up(
    settings: dict[str, Any], base_urls: tuple[str, ...] = (), actor_class: Any = nemo_rl.NemoGym
) -> Any:
    """An actor, started the way NeMo RL's builders do it."""
    cfg = {
        "model_name": "m",
        "base_urls": list(base_urls),
        "initial_global_config_dict": {"gym_ray": settings},
        "token_capture": None,
        "use_fastokens": False,
    }
    environment = {"env_vars": SERVE_ENVIRONMENT}
    actor = actor_class.options(runtime_env=environment).remote(cfg)
    ray.get(actor._spinup.remote())
    ray.get(actor.set_tokenizer.remote(Tokenizer()))
    return actor


def test_groups_of_every_kind_of_rollout_stream_as_they_complete(actor: Any) -> None:
    right = tool_calls(("get_weather", {"city": "Lisbon"}))
    other = tool_calls(("get_weather", {"city": "Porto"}))
    rows = [
        *sum_rows("4", "5", "4", _ng_task_index=7),
        *[agent_row("workshop_agent", [CALLS, CALLS, "It is 3."]) for _ in range(3)],
        *[weather_row(call, _ng_task_index=9) for call in (right, other, "No.")],
        *sum_rows("4 </think>", "<tool_call>", "4", instance_config={"mask_sample": True}),
    ]

    consumed = asyncio.run(consume(actor, rows, num_generations=3, parts=4))

    assert (sorted(consumed.groups), consumed.calls) == ([0, 1, 2, 3], [12])
    assert consumed.timing is not None
    assert 0 < consumed.timing[f"{PREFIX}/postprocess_results_pct"] < 100
    sums, tools, weather, marked = (
        group_of(rows[start : start + 3], [consumed.results[start + n] for n in range(3)])
        for start in (0, 3, 6, 9)
    )
    assert (sums["rewards"], sums["masks"]) == ([1.0, 0.0, 1.0], [False] * 3)
    assert (tools["rewards"], marked["masks"]) == ([2.0] * 3, [True] * 3)
    assert weather["rewards"] == [1.0, 0.5, 0.0]
    assert [len(consumed.results[row]["message_log"]) for row in (0, 3, 6)] == [2, 6, 2]
    components = consumed.results[7]["full_result"]["reward_components"]
    assert components == {"format": 0.25, "name": 0.25, "arguments": 0.0}
    flags = [consumed.results[row]["message_log"][1] for row in (9, 10, 11)]
    assert [flag["has_malformed_thinking"] for flag in flags] == [True, False, False]
    assert [flag["is_invalid_tool_call"] for flag in flags] == [False, True, False]


def test_rows_lost_to_infrastructure_are_asked_for_again_and_no_others(
    actor: Any, tmp_path: Path
) -> None:
    gone = tmp_path / "the sandbox is gone"
    gone.touch()
    rows = sum_rows("4", "4", "4", "4")
    rows[2]["reset_sandbox_error_while"] = str(gone)

    def back(consumed: Any) -> None:
        assert sorted(consumed.results) == [0, 1, 3]
        gone.unlink()

    consumed = asyncio.run(consume(actor, rows, 4, before_asking_again=back, parts=4))

    assert consumed.calls == [4, 1]
    assert consumed.groups == [0]


def test_a_row_that_would_fail_again_is_no_infrastructure_and_others_arrive_first(
    actor: Any,
) -> None:
    rows = [*sum_rows("4", "4"), *sum_rows("4", verify="raise")]

    async def read() -> tuple[list[int], Exception | None]:
        arrived = []
        prepared = [{**row, "_rowidx": index} for index, row in enumerate(rows)]
        try:
            async for reference in actor.run_rollouts.options(num_returns="streaming").remote(
                prepared, PREFIX
            ):
                index, _, _, timing = await reference
                assert timing is None
                arrived.append(index)
        except Exception as error:
            return arrived, error
        return arrived, None

    arrived, error = asyncio.run(read())

    assert sorted(arrived) == [0, 1]
    assert isinstance(error, nemo_rl.RolloutDataFailure)
    assert not is_infrastructure(error)
    assert "1 of 3 rollouts failed: row 2: verifier_error" in str(error)


def test_a_group_that_can_never_be_complete_is_terminal_and_never_started(actor: Any) -> None:
    rows = named_group([*sum_rows("4", "4"), agent_row("poetry", ["4"])])

    def first(rows: list[dict[str, Any]]) -> Any:
        call = actor.run_rollouts.options(num_returns="streaming").remote(rows, PREFIX, False, True)
        return ray.get(next(iter(call)))

    with pytest.raises(
        nemo_rl.GymTerminalEpisodeFailure, match=r"row 2: task_invalid: .* 'poetry'"
    ):
        first(rows)
    mixed = named_group([*sum_rows("4"), agent_row("workshop_agent", ["Idle."])])
    with pytest.raises(nemo_rl.GymTerminalEpisodeFailure, match="of one group"):
        first(mixed)


def test_a_lost_actor_stays_lost_and_a_new_one_takes_its_rows(url: str) -> None:
    rows = named_group(sum_rows("4", "5"))
    actor = spun_up({"service_url": url})
    # As a crash would: the process is gone, and Ray may restart it if it is allowed to.
    ray.kill(actor, no_restart=False)

    call = actor.run_rollouts.options(num_returns="streaming").remote(rows, PREFIX)
    with pytest.raises(ray.exceptions.RayActorError) as lost:
        ray.get(next(iter(call)))
    assert is_infrastructure(lost.value)

    new = spun_up({"service_url": url}, actor_class=nemo_rl.NemoGymOfAugust)
    consumed = asyncio.run(consume(new, rows, num_generations=2))
    assert consumed.groups == [0]
    ray.get(new.shutdown.remote())
    ray.kill(new)


def test_shards_tell_what_they_host(actor: Any) -> None:
    entries = ray.get(actor.list_entries.remote())
    assert entries.keys() == {*ENVIRONMENTS, "workshop_agent"}
    assert ray.get(actor.agent_implementations.remote())["workshop_agent"] == "tool_calling"


def test_releases_get_a_list_in_the_order_of_their_rows_and_need_no_spinup(url: str) -> None:
    cfg = {
        "model_name": "m",
        "base_urls": ["http://127.0.0.1:1/v1"],
        "initial_global_config_dict": {"gym_ray": {"service_url": url}},
    }
    actor = nemo_rl.NemoGymOfReleases.remote(cfg)
    assert ray.get(actor.health_check.remote()) is True

    results, timing = consume_list(
        actor,
        [
            agent_row("workshop_agent", [CALLS, CALLS, "It is 3."]),
            *sum_rows("4", "5"),
            weather_row("No."),
        ],
    )

    assert [result["full_result"]["reward"] for result in results] == [2.0, 1.0, 0.0, 0.0]
    assert f"{PREFIX}/postprocess_results_pct" in timing
    with pytest.raises(nemo_rl.RolloutDataFailure, match="row 1: verifier_error"):
        consume_list(actor, [*sum_rows("4"), *sum_rows("4", verify="raise")])
    ray.get(actor.shutdown.remote())
    ray.kill(actor)


def test_an_actor_that_is_not_ready_says_what_is_missing(url: str) -> None:
    cfg = {"initial_global_config_dict": {"gym_ray": {"service_url": url}}}
    actor = nemo_rl.NemoGym.remote(cfg)
    row = [{**sum_rows("4")[0], "_rowidx": 0}]

    def first(*arguments: Any) -> Any:
        call = actor.run_rollouts.options(num_returns="streaming").remote(*arguments)
        return ray.get(next(iter(call)))

    with pytest.raises(RuntimeError, match=r"_spinup\(\) was not called"):
        ray.get(actor.health_check.remote())
    with pytest.raises(RuntimeError, match=r"_spinup\(\) was not called"):
        first(row, PREFIX)
    ray.get(actor._spinup.remote())
    assert ray.get(actor.health_check.remote()) is None
    with pytest.raises(RuntimeError, match="set_tokenizer"):
        first(row, PREFIX)
    ray.get(actor.set_tokenizer.remote(Tokenizer()))
    index, agent_ref, result, timing = first(row, PREFIX, True)
    assert agent_ref == row[0]["agent_ref"]
    assert (index, result["_initial_multimodal_data_omitted"]) == (0, False)
    assert f"{PREFIX}/await_results" in timing
    with pytest.raises(ValueError, match="no rows"):
        first([], PREFIX)
    with pytest.raises(NotImplementedError):
        ray.get(actor.step.remote([], []))
    with pytest.raises(NotImplementedError):
        ray.get(actor.global_post_process_and_metrics.remote({}))
    ray.get(actor.shutdown.remote())
    ray.get(actor.shutdown.remote())
    ray.kill(actor)


def test_the_policy_may_be_nemo_rls_own_servers(cluster: str, tmp_path: Path) -> None:
    from ray import serve

    config = tmp_path / "environments.yaml"
    config.write_text(json.dumps({"environments": ENVIRONMENTS, "verification": {"processes": 1}}))
    before = set(serve.status().applications)
    with server() as base_url:
        actor = spun_up({"config": str(config)}, (base_url,))
        rows = [
            *[agent_row("workshop_agent", [CALLS, CALLS, "It is 3."]) for _ in range(4)],
            *sum_rows("4", "5", "4", "4"),
        ]
        consumed = asyncio.run(consume(actor, rows, num_generations=4, parts=4))
        ray.get(actor.health_check.remote())
        ray.get(actor.shutdown.remote())
        ray.kill(actor)

    rewards = [consumed.results[row]["full_result"]["reward"] for row in range(8)]
    assert rewards == [2.0] * 4 + [1.0, 0.0, 1.0, 1.0]
    log = consumed.results[0]["message_log"]
    # The server samples letter by letter: no rendering of the text would give these tokens.
    assert [len(message["token_ids"]) for message in log[1::2]] == [
        len(text) + 1 for text in (CALLS, CALLS, "It is 3.")
    ]
    assert set(serve.status().applications) <= before
