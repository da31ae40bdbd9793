"""What a caller of the engine gets: seeds, stops, refusals, cancellation."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest
from vllm import AsyncEngineArgs

from gym_ray.errors import ConfigError, FailureKind, RolloutFailure
from gym_ray.policies.call import Call
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.vllm import VllmEngine
from gym_ray.policies.vllm_arguments import check_engine_args
from gym_ray.sampling import Sampling
from gym_ray.turn import VersionSpan
from tests.suite import PATIENCE

CONTEXT_LENGTH = 8192
VOCABULARY_SIZE = 49152

#: Seconds within which the engine ends a short call that need not wait.
SOON = 20.0 * PATIENCE

#: More tokens than the engine samples within any deadline of these tests.
LONG = Sampling(max_output_tokens=CONTEXT_LENGTH)


def request(
    *, tokens: int = 8, output: int = 24, seed: int | None = None, stop: tuple[int, ...] = ()
) -> GenerationRequest:
    return GenerationRequest(
        Call(
            f"test/{tokens}/{seed}",
            Sampling(max_output_tokens=output),
            stop_token_ids=stop,
            seed=seed,
        ),
        np.arange(100, 100 + tokens, dtype=np.int32),
    )


def other_call(**changes: Any) -> GenerationRequest:
    """`request()` with another call."""
    made = request()
    return dataclasses.replace(made, call=dataclasses.replace(made.call, **changes))


def test_two_replicas_sample_different_tokens_for_the_same_prompt(
    replica_one: VllmEngine, replica_two: VllmEngine, run
) -> None:
    one, two = run(replica_one.generate(request())), run(replica_two.generate(request()))
    assert one.token_ids.tolist() != two.token_ids.tolist()
    assert run(replica_one.generate(request())).token_ids.tolist() != one.token_ids.tolist()


@pytest.mark.parametrize("tokens", [8, CONTEXT_LENGTH - 100], ids=["short", "long"])
def test_a_request_seed_reproduces_tokens_on_every_replica(
    tokens: int, replica_one: VllmEngine, replica_two: VllmEngine, run
) -> None:
    seeded = request(tokens=tokens, seed=2**62 + 1)
    one, two = run(replica_one.generate(seeded)), run(replica_two.generate(seeded))
    assert one.token_ids.tolist() == two.token_ids.tolist()
    np.testing.assert_allclose(one.logprobs, two.logprobs, atol=1e-5)
    other = run(replica_one.generate(request(tokens=tokens, seed=2)))
    assert other.token_ids.tolist() != one.token_ids.tolist()


def test_a_generation_that_meets_its_limit_is_cut_by_length(replica_one: VllmEngine, run) -> None:
    generation = run(replica_one.generate(request(output=24)))
    assert generation.stop_reason == "length"
    assert generation.token_ids.dtype == np.int32
    assert generation.logprobs.dtype == np.float32
    assert generation.token_ids.shape == generation.logprobs.shape == (24,)
    assert generation.version_spans == (VersionSpan(version=0, start=0, end=24),)
    assert (generation.logprobs <= 0).all()
    assert generation.generation_seconds > 0


def test_a_stop_token_ends_the_generation_and_is_kept(replica_one: VllmEngine, run) -> None:
    free = run(replica_one.generate(request(seed=5))).token_ids.tolist()
    wanted = free[10]
    stopped = run(replica_one.generate(request(seed=5, stop=(wanted,))))
    assert stopped.stop_reason == "stop"
    assert stopped.token_ids.tolist() == free[: free.index(wanted) + 1]


def test_the_context_bounds_what_is_generated(replica_one: VllmEngine, run) -> None:
    prompt = request(tokens=CONTEXT_LENGTH - 3, output=100)
    assert len(run(replica_one.generate(prompt)).token_ids) == 3


@pytest.mark.parametrize(
    ("prompt", "numbers"),
    [
        (np.full(CONTEXT_LENGTH, 5), [str(CONTEXT_LENGTH)]),
        (np.full(CONTEXT_LENGTH + 9, 5), [str(CONTEXT_LENGTH + 9), str(CONTEXT_LENGTH)]),
        (np.zeros(0), ["0 tokens", str(CONTEXT_LENGTH)]),
        (np.array([1, VOCABULARY_SIZE]), [str(VOCABULARY_SIZE)]),
        (np.array([1, -7]), ["-7", str(VOCABULARY_SIZE)]),
    ],
    ids=["leaves no room", "too long", "empty", "unknown token", "negative token"],
)
def test_a_prompt_that_can_never_be_served_is_rejected(
    prompt: np.ndarray, numbers: list[str], replica_one: VllmEngine, run
) -> None:
    wrong = dataclasses.replace(request(), prompt_token_ids=prompt.astype(np.int32))
    with pytest.raises(RolloutFailure) as caught:
        run(replica_one.generate(wrong))
    assert caught.value.kind is FailureKind.POLICY_REJECTED
    assert all(number in caught.value.message for number in numbers)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=0.001), Sampling(temperature=3.0), Sampling(grammar="root ::= (")],
    ids=["clamped by vLLM", "above vLLM's limit", "broken grammar"],
)
def test_sampling_that_vllm_would_change_or_cannot_do_is_rejected(
    sampling: Sampling, replica_one: VllmEngine, run
) -> None:
    with pytest.raises(RolloutFailure) as caught:
        run(replica_one.generate(other_call(sampling=sampling)))
    assert caught.value.kind is FailureKind.POLICY_REJECTED


def test_cancelling_a_call_frees_its_place_in_the_engine(replica_one: VllmEngine, run) -> None:
    """The engine holds two sequences: a third waits until a cancelled one has gone."""

    async def scenario() -> float:
        long = other_call(sampling=LONG)
        first = asyncio.create_task(replica_one.generate(long))
        await replica_one.generate(request())  # first come, first served: `first` runs by now
        second = asyncio.create_task(replica_one.generate(long))
        third = asyncio.create_task(replica_one.generate(request(seed=1)))
        while not third.done() and not first.cancelled():
            await asyncio.wait([third], timeout=1.0)
            assert not third.done()
            first.cancel()
            await asyncio.wait([first])
        waited = (await asyncio.wait_for(third, SOON)).queued_seconds
        assert not second.done()
        second.cancel()
        await asyncio.wait([second])
        await asyncio.wait_for(replica_one.generate(request()), SOON)
        return waited

    assert run(scenario()) > 0.5


def test_a_waiting_call_of_lower_number_goes_first(replica_two: VllmEngine, run) -> None:
    """The engine holds two sequences, so two more wait until the shorter of these has ended."""

    async def scenario() -> list[str]:
        ended: list[str] = []

        async def call(name: str, output: int, priority: int) -> None:
            asked = other_call(
                request_id=name, sampling=Sampling(max_output_tokens=output), priority=priority
            )
            await replica_two.generate(asked)
            ended.append(name)

        endless = asyncio.create_task(call("endless", CONTEXT_LENGTH, -1))
        await asyncio.gather(
            call("running", 100, -1),
            *(call(f"priority {priority}", 24, priority) for priority in (1, 0)),
        )
        assert not endless.done()
        endless.cancel()
        await asyncio.wait([endless])
        return ended

    assert run(scenario()) == ["running", "priority 0", "priority 1"]


def test_unknown_engine_arguments_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="max_model_len"):
        check_engine_args({"max_modell_len": 10})
    with pytest.raises(ConfigError, match=r"policy\.model"):
        check_engine_args({"model": "other"})
    with pytest.raises(ConfigError, match="processed_logprobs"):
        VllmEngine(model="any", engine_args={"logprobs_mode": "raw_logprobs"})
    check_engine_args({"max_model_len": 10, "logprobs_mode": "processed_logprobs"})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("return_sampling_mask", True, "no place for the sampling masks"),
        ("enable_return_routed_experts", True, "no place for the routed experts"),
        ("aux_output_config", {"enable_return_routed_experts": True}, "beside tokens"),
        ("enable_lora", True, "serve merged weights"),
        ("logits_processors", ["my.module:Processor"], "which distribution"),
        ("watermark_config", {"key": 3}, "watermarked tokens"),
        ("diffusion_config", {"canvas_length": 8}, "diffusion model"),
        ("reasoning_parser", "qwen3", "policy.renderer"),
        ("override_generation_config", {"temperature": 0.5}, r"sampling\.temperature"),
        ("generation_config", "/some/folder", "which tokens end a turn"),
        ("speculative_config", {"rejection_sample_method": "synthetic"}, "not the policy's"),
        ("structured_outputs_config", {"backend": "auto"}, "must be xgrammar"),
        (
            "structured_outputs_config",
            {"backend": "xgrammar", "reasoning_parser": "qwen3"},
            "after the thinking",
        ),
    ],
)
def test_arguments_whose_effect_no_row_tells_are_refused(
    name: str, value: Any, reason: str
) -> None:
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert name in known, "vLLM has the argument; else it is refused as unknown"
    with pytest.raises(ConfigError, match=rf"policy\.engine_args\.{name}: .*{reason}"):
        check_engine_args({name: value})
    check_engine_args({name: None})


def test_arguments_that_leave_the_distribution_as_it_is_are_let_through() -> None:
    check_engine_args({"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}})
    check_engine_args({"generation_config": "vllm", "enable_lora": False})
    check_engine_args({"structured_outputs_config": {"backend": "xgrammar"}})
