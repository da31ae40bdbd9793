"""Updates of weights, as a request says them and as engines are told them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydantic
import pytest

from gym_ray.errors import ConfigError
from gym_ray.policies.call import Call
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.scripted import ScriptedEngine, scripted_logprobs
from gym_ray.policies.vllm_weights import check_transfer, update_weights
from gym_ray.policies.weights import Place, Transfer, WeightsUpdate
from gym_ray.sampling import Sampling
from gym_ray.turn import VersionSpan

NCCL = {
    "backend": "nccl",
    "init": {"master_address": "10.0.0.1", "master_port": 9000, "world_size": 9},
    "updates": [{"names": ["a"]}, {"names": ["b"]}],
}


class RecordedLlm:
    """What vLLM is asked, in order."""

    def __init__(self, backend: str | None, *, tensor_parallel_size: int = 1) -> None:
        config = None if backend is None else SimpleNamespace(backend=backend)
        parallel = SimpleNamespace(world_size=tensor_parallel_size, data_parallel_size=1)
        self.vllm_config = SimpleNamespace(weight_transfer_config=config, parallel_config=parallel)
        self.asked: list[tuple[str, Any]] = []

    def __getattr__(self, method: str) -> Any:
        async def ask(*arguments: Any, **named: Any) -> Any:
            self.asked.append((method, arguments or named))
            if method == "collective_rpc":
                self.asked[-1] = (arguments[0], named.get("kwargs", {}))
            return [{"a": "1"}] if method == "compute_weight_checksums" else None

        return ask


async def nothing() -> None:
    return None


def test_a_transfer_is_received_between_pausing_and_numbering_and_every_replica_has_its_ranks() -> (
    None
):
    llm = RecordedLlm("nccl", tensor_parallel_size=4)
    update = WeightsUpdate.model_validate({"version": 3, "source": NCCL})

    asyncio.run(update_weights(llm, update, Place(position=1, replicas=2), nothing))

    assert llm.asked == [
        ("pause_generation", {"mode": "keep", "clear_cache": True}),
        ("init_weight_transfer_engine", {"init_info": {**NCCL["init"], "rank_offset": 5}}),
        ("start_weight_update", {}),
        ("update_weights", {"update_info": {"names": ["a"]}}),
        ("update_weights", {"update_info": {"names": ["b"]}}),
        ("finish_weight_update", {}),
        ("repack_weights", {}),
        ("update_weight_version", ("3",)),
        ("compute_weight_checksums", {}),
        ("resume_generation", {}),
    ]


def test_a_transfer_over_an_open_connection_is_not_initialised_again() -> None:
    llm = RecordedLlm("ipc")
    source = {"backend": "ipc", "updates": [{"names": ["a"]}]}
    update = WeightsUpdate.model_validate({"version": 1, "source": source, "mode": "drain"})

    asyncio.run(update_weights(llm, update, Place(), nothing))

    assert [method for method, _ in llm.asked][:3] == [
        "pause_generation", "start_weight_update", "update_weights"
    ]  # fmt: skip
    assert llm.asked[0][1]["mode"] == "wait"


def test_an_engine_is_not_resumed_with_weights_that_could_not_be_verified() -> None:
    llm = RecordedLlm(None)

    async def verify() -> None:
        raise ConfigError("changed meanwhile")

    with pytest.raises(ConfigError):
        asyncio.run(
            update_weights(llm, WeightsUpdate(version=1, source="/weights"), Place(), verify)
        )
    assert [method for method, _ in llm.asked] == [
        "pause_generation", "reload_weights", "repack_weights"
    ]  # fmt: skip


def test_a_world_without_room_for_every_worker_is_refused() -> None:
    transfer = Transfer.model_validate(NCCL)
    llm: Any = RecordedLlm("nccl", tensor_parallel_size=4)

    check_transfer(llm, transfer, Place(replicas=2))
    with pytest.raises(ConfigError, match=r"world_size is 9.* 3 replicas of 4 workers makes 13"):
        check_transfer(llm, transfer, Place(replicas=3))
    other: Any = RecordedLlm("ipc")
    with pytest.raises(ConfigError, match="weight_transfer_config"):
        check_transfer(other, transfer, Place())


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 0, "source": "/a"},
        {"version": 1},
        {"version": 1, "source": "/a", "mode": "now"},
        {"version": 1, "source": {"backend": "carrier pigeon", "updates": [{}]}},
        {"version": 1, "source": {"backend": "ipc", "updates": []}},
        {"version": 1, "source": "/a", "vresion": 2},
    ],
)
def test_updates_that_say_nothing_sensible_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        WeightsUpdate.model_validate(wrong)


@pytest.mark.parametrize("mode", ["keep", "drain"])
def test_the_scripted_policy_changes_its_logprobs_with_the_version(
    mode: str, tmp_path: Path
) -> None:
    (tmp_path / "script.json").write_text(json.dumps({"reply": "y" * 40, "seed": 3}))
    request = GenerationRequest(
        Call("r/1/0", Sampling(max_output_tokens=40)), np.arange(4, dtype=np.int32)
    )
    update = WeightsUpdate.model_validate({"version": 2, "source": str(tmp_path), "mode": mode})

    async def scenario() -> None:
        engine = ScriptedEngine(
            model="scripted", engine_args={"reply": "x" * 40, "latency_seconds": 0.4}
        )
        await engine.start()
        running = asyncio.create_task(engine.generate(request))
        await asyncio.wait([running], timeout=0.15)
        await engine.update_weights(update, Place(), nothing)
        across, after = await running, await engine.generate(request)

        (old, *new) = across.version_spans
        assert (old.version, old.start) == (0, 0)
        assert new == ([VersionSpan(2, old.end, 40)] if mode == "keep" else [])
        tokens = across.token_ids
        np.testing.assert_array_equal(
            across.logprobs[: old.end], scripted_logprobs(tokens)[: old.end]
        )
        np.testing.assert_array_equal(
            across.logprobs[old.end :],
            scripted_logprobs(tokens, seed=3, version=2)[old.end :],
        )
        assert after.version_spans == (VersionSpan(2, 0, 40),)
        assert set(after.token_ids.tolist()) != set(tokens.tolist())

    asyncio.run(scenario())


def test_a_folder_without_a_script_is_refused(tmp_path: Path) -> None:
    engine = ScriptedEngine(model="scripted", engine_args={})
    with pytest.raises(ConfigError, match=r"script\.json"):
        asyncio.run(engine.check_weights(WeightsUpdate(version=1, source=str(tmp_path)), Place()))
