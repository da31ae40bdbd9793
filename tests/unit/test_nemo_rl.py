"""NeMo RL's results, failures and settings, without Ray: shapes, marks, refusals, and imports."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gym_ray.errors import ConfigError
from gym_ray.integrations.nemo_rl.hosted import hosted_by
from gym_ray.integrations.nemo_rl.message_log import Untrainable, result_of
from gym_ray.integrations.nemo_rl.row_flags import RowFlags
from gym_ray.integrations.nemo_rl.service import service_of
from gym_ray.integrations.nemo_rl.settings import config_of, settings_of
from gym_ray.renderers.items import items_from_message
from gym_ray.renderers.messages import AssistantMessage
from gym_ray.rollout import Branch, Rollout
from gym_ray.turn import Turn
from tests.nemo_rl_consumer import Tokenizer, read

SERVERS = {"base_urls": ["http://10.0.0.1:4000/v1", None], "model_name": "Qwen/Qwen3-8B"}


@pytest.fixture
def rollout(make_rollout: Callable[..., Rollout]) -> Rollout:
    """Three turns: 3 tokens in and 2 out, 1 in and 2 out, 2 in and 1 out."""
    items = [
        item
        for turn in range(3)
        for item in items_from_message(AssistantMessage(f"{turn}"), item_id_prefix=f"r-{turn}")
    ]
    return make_rollout(
        token_ids=np.arange(11, dtype=np.int32),
        loss_mask=np.array([0, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1], dtype=np.int8),
        logprobs=np.array([0, 0, 0, -1, -2, 0, -3, -4, 0, 0, -5], dtype=np.float32),
        turns=tuple(
            Turn(prompt, length, "stop", (), 0.0, 0.5)
            for prompt, length in ((3, 2), (6, 2), (10, 1))
        ),
        response=json.dumps(items),
    )


def result(rollout: Rollout, marks: RowFlags | None = None, *, tensors: bool = False) -> Any:
    task = json.loads(rollout.spec.task)
    return result_of(task, rollout, Tokenizer(), marks or RowFlags(), tensors=tensors)


def test_the_log_alternates_and_read_from_end_to_end_is_the_rollouts_sequence(
    rollout: Rollout,
) -> None:
    found = result(rollout)

    read(found)
    log = found["message_log"]
    assert [message["token_ids"] for message in log] == [
        [0, 1, 2],
        [3, 4],
        [5],
        [6, 7],
        [8, 9],
        [10],
    ]
    assert [m["generation_logprobs"] for m in log[1::2]] == [[-1, -2], [-3, -4], [-5]]
    assert "_ng_task_index" not in found["full_result"]
    assert found["full_result"]["agent_ref"]["name"] == "sums"


def test_a_turn_without_tokens_is_left_out_and_its_prompt_belongs_to_the_next(
    rollout: Rollout,
) -> None:
    first, second, third = rollout.turns
    empty = dataclasses.replace(second, prompt_length=5, generation_length=0)
    turns = (first, empty, third)

    log = result(dataclasses.replace(rollout, turns=turns))["message_log"]

    assert [m["token_ids"] for m in log] == [[0, 1, 2], [3, 4], [5, 6, 7, 8, 9], [10]]


def test_tensors_are_made_only_when_asked_for(rollout: Rollout) -> None:
    log = result(rollout, tensors=True)["message_log"]

    assert {message["token_ids"].dtype for message in log} == {torch.int64}
    assert {message["generation_logprobs"].dtype for message in log[1::2]} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logprobs": np.full(11, np.nan, dtype=np.float32)}, "not finite"),
        ({"reward": float("nan")}, "reward is nan"),
        ({"reward": 1.0, "reward_components": {"a": 0.5, "b": 0.4}}, "components sum to 0.9"),
        ({"response": "[]"}, "0 turns and 3 were sampled"),
        ({name: np.zeros(0, dtype=np.int32) for name in ("token_ids", "loss_mask", "logprobs")},
         "returns no token IDs"),
        ({"turns": (Turn(11, 0, "length", (), 0.0, 0.5),)}, "no token was sampled"),
        ({"side_branches": (Branch(*(np.zeros(2, kind) for kind in ("i4", "i1", "f4"))),)},
         "it has 1 side branches"),
    ],
)  # fmt: skip
def test_what_could_not_be_trained_on_is_refused(
    rollout: Rollout, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Untrainable, match=message):
        result(dataclasses.replace(rollout, **changes))


def test_components_within_nemo_rls_tolerance_pass(rollout: Rollout) -> None:
    components = {"a": 0.3, "b": 0.7000001}
    result(dataclasses.replace(rollout, reward=1.0, reward_components=components))


@pytest.mark.parametrize(
    ("reason", "task", "metrics", "masked"),
    [
        (None, {}, {}, False),
        ("deadline", {}, {}, True),
        ("length", {}, {}, False),
        (None, {"mask_sample": True}, {}, True),
        (None, {"instance_config": {"mask_sample": True, "image": "x"}}, {}, True),
        (None, {"instance_config": {"mask_sample": False}}, {"mask_sample": 1.0}, True),
    ],
)
def test_masks_are_written_in_both_places(
    rollout: Rollout, reason: Any, task: dict[str, Any], metrics: dict[str, float], masked: bool
) -> None:
    row = json.dumps({**json.loads(rollout.spec.task), **task})
    changed = dataclasses.replace(
        rollout,
        spec=dataclasses.replace(rollout.spec, task=row),
        status="completed" if reason is None else "truncated",
        truncation_reason=reason,
        metrics=metrics,
    )

    full = result(changed, RowFlags(mask_truncated=("deadline",)))["full_result"]

    assert (full["mask_sample"], full["instance_config"]["mask_sample"]) == (masked, masked)
    given = task.get("instance_config", {})
    assert full["instance_config"] == {**given, "mask_sample": masked}


def answer(text: str) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}]}


def reasoning(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}


@pytest.mark.parametrize(
    ("item", "invalid_call", "malformed"),
    [
        (answer("4"), False, False),
        (answer("4</think>"), False, True),
        (answer("<tool_call>{}"), True, False),
        (reasoning("<think>hm</think>"), False, False),
        (reasoning("<think>hm<think>"), False, True),
        (reasoning("</function_call>"), True, False),
        ({"type": "function_call", "name": "<think>", "arguments": "{}"}, False, False),
        ({"type": "function_call", "name": "", "status": "incomplete"}, True, False),
        ({"type": "message", "content": []}, False, False),
    ],
)
def test_marks_of_turns(item: dict[str, Any], invalid_call: bool, malformed: bool) -> None:
    marks = RowFlags().of_item(item)

    assert marks == {"is_invalid_tool_call": invalid_call, "has_malformed_thinking": malformed}


@pytest.mark.parametrize(
    ("nemo_gym", "message"),
    [
        ({}, "env.nemo_gym.gym_ray is missing"),
        ({"gym_ray": {}}, "exactly one of config and service_url"),
        ({"gym_ray": {"config": {}, "service_url": "http://x"}}, "exactly one of"),
        ({"gym_ray": {"service_ur": "http://x"}}, r"service_ur: unknown key; did you mean 'serv"),
        ({"gym_ray": {"service_url": "http://x", "mask_truncated": ["slow"]}}, "mask_truncated"),
    ],
)
def test_wrong_settings_name_their_key(nemo_gym: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(nemo_gym)


def test_a_service_without_a_key_of_its_own_is_sent_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str | None] = []

    def client(url: str, *, api_key: str | None, max_in_flight: int) -> None:
        sent.append(api_key)

    monkeypatch.setattr("gym_ray.integrations.nemo_rl.http_service.AsyncRolloutClient", client)
    monkeypatch.setenv("GYM_RAY_API_KEY", "of another service")
    section = {"service_url": "http://rollouts:8000", "api_key_env": "ITS_KEY"}

    service_of({"initial_global_config_dict": {"gym_ray": section}})

    assert sent == [""]


def test_the_policy_section_is_generated_from_nemo_rls_servers(tmp_path: Path) -> None:
    path = tmp_path / "environments.yaml"
    path.write_text(
        "environments: {sums: {entrypoint: 'sums.py:Sums'}}\n"
        "policy: {request_timeout_seconds: 900, engine_args: {max_connections: 7}}\n"
    )

    config = config_of(settings_of({"gym_ray": {"config": str(path)}}), **SERVERS)

    assert (config.policy.engine, config.policy.model) == ("openai", "Qwen/Qwen3-8B")
    assert config.policy.request_timeout_seconds == 900
    assert config.policy.engine_args == {
        "api": "chat", "max_connections": 7, "base_urls": ["http://10.0.0.1:4000/v1"],
    }  # fmt: skip
    assert config.base_directory == str(tmp_path)
    # Rows from NeMo RL bring their limit; a default of ours must not cut them shorter.
    assert config.sampling.max_output_tokens >= 131_072


def test_a_policy_of_ones_own_and_missing_servers_are_refused() -> None:
    environments = {"environments": {"math": {}}}
    own = settings_of({"gym_ray": {"config": {**environments, "policy": {"engine": "vllm"}}}})
    with pytest.raises(ConfigError, match=r"leave policy\.engine out"):
        config_of(own, **SERVERS)
    with pytest.raises(ConfigError, match="expose_http_server"):
        config_of(settings_of({"gym_ray": {"config": environments}}), base_urls=[], model_name="m")


@pytest.mark.parametrize("cut", [{"top_k": 20}, {"stop": ["\n"]}])
def test_sampling_that_nemo_rl_does_not_know_of_is_refused(cut: dict[str, Any]) -> None:
    settings = settings_of({"gym_ray": {"config": {"environments": {"math": {}}, "sampling": cut}}})
    (key,) = cut
    with pytest.raises(ConfigError, match=f"sampling.{key} of env.nemo_gym.gym_ray.config"):
        config_of(settings, **SERVERS)
    answer = {"environments": {}, "sampling": {"top_p": 1.0, "top_k": None, **cut}}
    with pytest.raises(ConfigError, match=f"sampling.{key} of the service's config"):
        hosted_by(answer)


@pytest.mark.parametrize("capture", [None, {"enabled": False}])
def test_token_capture_that_is_off_is_no_hindrance(capture: Any) -> None:
    gym_ray = {"service_url": "http://x"}
    service_of({"initial_global_config_dict": {"gym_ray": gym_ray}, "token_capture": capture})


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"require_routed_experts": True}, "router_replay"),
        ({"tokenizer_config": {"name": "m"}}, "text only"),
        ({"token_capture": {"enabled": True}}, r"token_capture\.enabled=false"),
    ],
)
def test_what_rollouts_do_not_carry_is_refused(wish: dict[str, Any], message: str) -> None:
    cfg = {"initial_global_config_dict": {"gym_ray": {"service_url": "http://x"}}, **wish}
    with pytest.raises(ConfigError, match=message):
        service_of(cfg)


def test_an_actor_that_speaks_http_needs_neither_torch_nor_an_engine_nor_serve() -> None:
    cfg = {"initial_global_config_dict": {"gym_ray": {"service_url": "http://x"}}}
    program = (
        "import asyncio, sys\n"
        "import gym_ray.integrations.nemo_rl\n"
        "from gym_ray.integrations.nemo_rl.service import service_of\n"
        f"service_of({cfg})\n"
        "print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    loaded = set(json.loads(done.stdout.decode().replace("'", '"')))
    heavy = {"torch", "vllm", "transformers", "fastapi", "ray.serve", "gym_ray.serving", "nemo_rl"}
    assert not loaded & heavy
